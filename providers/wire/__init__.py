"""Wire decoders: bytes of a response body in, tokens out. No I/O, no HTTP."""
