"""HTTP under httpx: names, sockets, TLS, connections that are kept or shared."""
