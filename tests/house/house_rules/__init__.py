"""The house rules, each a function from a root folder to a list of complaints: `file:line: what is wrong`."""
