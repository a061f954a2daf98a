"""What a user gets for free: linear models over counted words, and a structured perceptron."""
