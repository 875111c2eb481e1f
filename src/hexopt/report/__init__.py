"""Figures, tables and reports from result folders: one file per figure, each a function ``plot_x(data, ax=None)``.

:func:`~hexopt.report.data.load_results` reads the folder of an experiment or of a single run;
:func:`~hexopt.report.figures.write_figures` writes every figure that its data allow, and
:func:`~hexopt.report.writer.write_report` puts them, the tables and what they say into one page. Nothing here prints.
"""
