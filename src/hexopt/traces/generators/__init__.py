"""Generated traces: workflows of an application, drawn from stated distributions.

Every application is a module with its distributions (``SETS``) and a function ``build`` that draws one workflow.
``traces/generators.md`` is the datasheet.
"""

from __future__ import annotations

from hexopt.traces.generators.registry import GENERATORS, generate_trace, generator_options

__all__ = ["GENERATORS", "generate_trace", "generator_options"]
