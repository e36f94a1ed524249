"""Benchmarks: `zsml bench`.

case.py says what a comparison is and cases.py lists them; data.py draws their data, truth.py knows the right answers, peers_*.py
are the other ways to get them. measure.py holds the clocks, run.py runs a case, session.py a whole command; rows.py keeps the
results, report.py turns them into tables and plots.
"""
