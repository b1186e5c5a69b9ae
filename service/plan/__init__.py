"""A plan for many machines: figures measured on one, and the arithmetic that takes them to a load.

footage, networks, served → Figures (a JSON file) → costs × load → nodes → report
"""
