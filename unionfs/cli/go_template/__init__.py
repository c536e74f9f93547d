"""`--format`: the part of Go's text/template that is used with Docker's commands, on values as JSON has them.

Syntax and meaning are text/template's (https://pkg.go.dev/text/template): fields, variables, pipelines, if,
range, with, break, continue, trimmed blanks, and the functions of functions.py. Not: define, template, block
and methods, which no template for such data needs.

PyPI's gotpl does more, but it is young, and brings five packages and 190 ms of imports.
"""

from __future__ import annotations

from unionfs.cli.go_template.functions import encode_json
from unionfs.cli.go_template.template import Template

__all__ = ["Template", "encode_json"]
