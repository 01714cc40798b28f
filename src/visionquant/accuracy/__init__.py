"""Networks trained here or opened by name, and what each precision does to their predictions on labelled images."""
