"""How fast a model trains, writes and reads on this machine, beside what the machine can do."""
