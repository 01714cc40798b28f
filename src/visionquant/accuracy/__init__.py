"""Small networks trained here on real labelled images, and what each precision does to their accuracy."""
