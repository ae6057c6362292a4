"""The report: the tables of a run directory -> numbers -> terminal summary, JSON, Markdown or one HTML file.

    scan.py       results/, errors/, engine_stats/ -> sums, histograms and picks, in one pass of bounded memory
    sketch.py     quantiles of any number of values
    picks.py      which rows to show: least certain, deepest, cut, looped, failed, and a fair sample
    loops.py      which texts repeat themselves
    numbers.py    sums -> the numbers of a report (frozen dataclasses; None is unknown)
    cost.py       money and device time, and the check that they close
    audit.py      what the audit of early exit found, by run.json
    quality.py    scores of a sample against references
    compare.py    several runs: agreement and saving on the rows they share
    facts.py      numbers -> labelled, formatted facts by section, the same for every form
    terminal.py markdown.py page.py    facts -> text; page.py with charts.py, report.html.j2, report.css and report.js

Everything that came from outside (captions, file names, messages) is hostile: see safe_text.py.
"""
