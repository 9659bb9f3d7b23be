"""Whether, when and where a request goes upstream."""
