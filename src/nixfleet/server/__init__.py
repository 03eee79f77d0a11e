"""The coordinator: carries signed statements and reports; holds no authority of its own."""
