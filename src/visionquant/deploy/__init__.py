"""What a user imports: predictor, server, export, half precision, training in less memory, sharding, monitor."""
