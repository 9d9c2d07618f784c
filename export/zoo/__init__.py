"""Models that export in the tests and feed the demo and the load tests."""
