//! The core over the real, unmodified openraft, on paused tokio time: virtual nodes with a simulated disk, network,
//! clock and processes. One seed is one history.
