"""`marey doctor`: what can run on this machine, what cannot, why, and the remedy. Needs no server, and survives broken parts."""
