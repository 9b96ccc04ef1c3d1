# Reads a package index for the node, as this machine's Python reaches the network: its certificates, proxies, names.
# MUSTER_INDEX_WORDS, since everybody sees arguments and addresses may hold passwords: `["page", URL…]` prints the files of
# a project as JSON; `["file", URL, PATH]` stores a file.
# Exit code 3: there is no such page. 4: nobody answers.
import base64, html.parser, json, os, shutil, ssl, sys, urllib.error, urllib.parse, urllib.request

PATIENCE = 10


def open_url(url, accept="*/*"):
    parts = urllib.parse.urlsplit(url)
    headers = {"Accept": accept, "User-Agent": "muster"}
    host = parts.netloc
    if "@" in host:
        login, host = host.rsplit("@", 1)
        login = urllib.parse.unquote(login).encode()
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
    trusted = os.environ.get("PIP_TRUSTED_HOST", "").split()
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if parts.hostname in trusted or host in trusted:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    plain = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    request = urllib.request.Request(plain)
    for name, value in headers.items():
        # Not sent on when the answer points elsewhere: a password is for one host.
        request.add_unredirected_header(name, value)
    return urllib.request.urlopen(request, timeout=PATIENCE, context=context)


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.files = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a" and attributes.get("href"):
            href, _, fragment = attributes["href"].partition("#")
            hashes = dict(part.split("=", 1) for part in fragment.split("&") if "=" in part)
            name = urllib.parse.unquote(href.rsplit("/", 1)[-1])
            self.files.append((name, href, hashes.get("sha256", ""), attributes.get("data-requires-python") or "", "data-yanked" in attributes))


def files_of(url):
    json_type = "application/vnd.pypi.simple.v1+json"
    with open_url(url, f"{json_type}, text/html;q=0.5") as answer:
        kind = answer.headers.get("Content-Type", "")
        body = answer.read()
        base = answer.geturl()
    if "json" in kind:
        listed = [(f["filename"], f["url"], (f.get("hashes") or {}).get("sha256", ""), f.get("requires-python") or "", bool(f.get("yanked"))) for f in json.loads(body).get("files", [])]
    else:
        links = Links()
        links.feed(body.decode("utf-8", "replace"))
        listed = links.files
    login = urllib.parse.urlsplit(url).netloc.rpartition("@")[0]
    for name, href, sha256, python, yanked in listed:
        full = urllib.parse.urlsplit(urllib.parse.urljoin(base, href))
        # A file on the host of its page is behind the same login.
        if login and full.netloc == urllib.parse.urlsplit(base).netloc:
            full = full._replace(netloc=f"{login}@{full.netloc}")
        yield {"filename": name, "url": full.geturl(), "sha256": sha256.lower(), "requires_python": python, "yanked": yanked}


def without_login(url):
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def page(urls):
    found, missing, why = [], 0, []
    for url in urls:
        try:
            found.extend(files_of(url))
        except urllib.error.HTTPError as error:
            if error.code not in (403, 404, 410):
                why.append(f"{without_login(url)}: {error}")
            missing += 1
        except (OSError, ValueError) as error:
            why.append(f"{without_login(url)}: {getattr(error, 'reason', error)}")
    if not found and why:
        print("; ".join(why), file=sys.stderr)
        return 4
    if not found and missing:
        return 3
    json.dump(found, sys.stdout)
    return 0


def file(url, path):
    try:
        with open_url(url) as answer, open(path, "wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
    except (OSError, ValueError) as error:
        print(f"{without_login(url)}: {getattr(error, 'reason', error)}", file=sys.stderr)
        return 4
    return 0


words = json.loads(os.environ.pop("MUSTER_INDEX_WORDS"))
sys.exit(page(words[1:]) if words[0] == "page" else file(*words[1:3]))
