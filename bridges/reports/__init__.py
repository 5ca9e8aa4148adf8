"""Reports: one JSON per result, and pages drawn from it alone. Start at `page.write_report` and `page.render_artefact`.

page.py            report → HTML; writing reports; the page of any artefact folder
circuit_graph.py   a circuit with its activations on the task's pairs, as plain types
layout.py          where the nodes of a circuit are drawn
numbers.py         figures, intervals and shares as text
overview.py        report → what the top of the page shows
summary.py         the table over tasks
verdict_words.py   words and gates, read off the JSON
task_section.py    one task's part of a report → what its section shows, in the order of the argument
evidence_section.py  headline, causal map, transfer, specificity, doses, baselines
standing_section.py  standing edits beside the same rule without a bridge
bridge_section.py  evaluations of a bridge → tables
artefact_pages.py  bridge, circuit, edit, model, corpus and training-run folders → what their pages show
figures/           data → SVG, one figure per file
page.html          the template
"""
