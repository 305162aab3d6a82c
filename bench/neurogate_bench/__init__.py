"""The benchmark harness: starts servers, loads them, checks their answers, and writes down what it saw."""
