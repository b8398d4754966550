"""Lineage: recipes as graphs of content-addressed artifacts, run so that nothing is done twice and nothing is lost.

| file                    | what it holds                                                 |
| ----------------------- | ------------------------------------------------------------- |
| `recipe.py`             | a recipe: settings of the run, nodes, edges, all checked      |
| `recipe_keys.py`        | its keys by their names: `--set`, names of schema 1           |
| `graph.py`              | which nodes must run, and why; keys, inputs and their digests |
| `preflight.py`          | what a run and a plan refuse before any work                  |
| `estimate.py`           | how large a training is before it runs                        |
| `runner.py`             | run the nodes, publish their artifacts, recover after a kill  |
| `scratch.py`            | the folders of work that is not finished                      |
| `progress.py`           | what a terminal shows of a run                                |
| `model_card.py`         | the README beside a model                                     |
| `status.py`             | every node, and whether its artifact is intact                |
| `trace.py`              | which documents a step read, and back                         |
| `gc.py`                 | what can be removed without losing work                       |
| `run_reader.py`         | a run folder, read for the card and for the status            |
| `report_card.py`        | the report card of a run                                      |
| `report_card_claims.py` | its claims: what worked and what did not                      |
| `report_card_graph.py`  | its drawing of the family                                     |
| `report_card_plots.py`  | its plots                                                     |
| `report_card_seeds.py`  | its section on other seeds                                    |
"""
