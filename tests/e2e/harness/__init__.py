"""What the end-to-end tests share: a server, a census of what it holds on the host, waiting, test networks."""
