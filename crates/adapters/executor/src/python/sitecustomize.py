"""Lets muster ask a Python program where it is: on signal 16 it writes the stacks of its threads to standard error.

Python imports this at its start because it comes first on PYTHONPATH. It steps aside at once: the module of this name
that was there before, of a virtual environment or a distribution, is run as ever.
"""

import sys


def _step_aside():
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    try:
        import faulthandler

        faulthandler.register(16, all_threads=True)
    except Exception:
        pass  # without standard error, or in an interpreter that has none of it
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_step_aside()
