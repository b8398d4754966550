"""What two short answers are compared as; `evaluation/answers.py` decides between the readings.

`typography.py` makes LaTeX, Unicode and Markdown one plain spelling; `syntax.py` parses formulas to trees and
`values.py` computes them, exactly or at several points; `quantities.py` reads numbers with units; `phrases.py` fixed
phrases, clock times, dates and choices; `structures.py` lists, matrices and their parts; `relations.py` equations,
inequalities and sets of numbers. No text is ever executed, and every reader is bounded.
"""
