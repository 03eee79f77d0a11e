"""What any party verifies: bytes in, verdict out; never IO beyond `signers`."""
