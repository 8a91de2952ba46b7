"""Fine-tune students: encode and batch rows, train one or several processes, and save the result."""
