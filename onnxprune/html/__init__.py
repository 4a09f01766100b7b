"""The report as one HTML file that needs nothing else: `--report report.html`.

    facts      what a page says, as plain data: cards, the certificate in words, groups, layers
    replay     a plan's options as a command line
    plots      histograms and bars, as SVG
    page       the template filled in
    curves     the pages of what many trials have measured

What a model calls its tensors and nodes is not to be trusted: jinja2 escapes all of it.
"""

from .curves import of_sensitivity as of_sensitivity
from .curves import of_sweep as of_sweep
from .page import of_benchmark as of_benchmark
from .page import of_comparison as of_comparison
from .page import of_result as of_result
from .page import require as require
