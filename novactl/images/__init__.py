"""Images: what a file is (inspector), where its bytes are kept (store)."""
