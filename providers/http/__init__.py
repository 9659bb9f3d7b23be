"""HTTP/1.1 under httpx: names, sockets, TLS, connections that are kept."""
