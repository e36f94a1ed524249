"""Benchmarks: `zsml bench`.

case.py says what a comparison is; cases.py lists them, those of losses in cases_losses.py. data.py draws the data of retrieval,
truth.py and truth_losses.py know the right answers, peers_*.py are the other ways to get them. measure.py holds the clocks,
run.py runs a case, session.py a whole command; rows.py keeps the results, report.py turns them into tables and plots.
"""
