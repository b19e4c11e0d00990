"""Control types of simulated devices: their messages and instructions while they are selected."""
