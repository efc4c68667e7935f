"""A cluster that exists only in virtual time, driving the same controller as production."""
