"""The student: encoding, training, answering."""
