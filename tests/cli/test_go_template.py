"""Templates for --format: what each prints, what is refused, and the same by a program in Go."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from testing.images import file, make_image
from unionfs.cli.go_template import Template
from unionfs.errors import OptionError

DATA: dict[str, Any] = {
    "Id": "sha256:abc",
    "RepoTags": ["debian:12", "debian:latest"],
    "Size": 117,
    "Ratio": 0.5,
    "Parent": "",
    "Config": {"Env": ["A=1", "B=2"], "Cmd": None, "Tty": False, "Labels": {"b": "2", "a": "1", "c.d": "é<"}},
    "Mounts": [{"Source": "/a", "RW": True}, {"Source": "/b", "RW": False}],
}

PRINTED = {
    "plain": "plain",
    "": "",
    "{{.Id}}": "sha256:abc",
    "{{ .Config.Env }}": "[A=1 B=2]",
    "{{.Config.Cmd}}": "<no value>",
    "{{.Config.Tty}} {{.Size}} {{.Ratio}}": "false 117 0.5",
    "{{.Mounts}}": "[map[RW:true Source:/a] map[RW:false Source:/b]]",
    "{{json .Config.Env}}": '["A=1","B=2"]',
    "{{.Config.Labels | json}}": '{"b":"2","a":"1","c.d":"é<"}',
    "{{index .RepoTags 0}}": "debian:12",
    '{{index .Config.Labels "c.d"}}': "é<",
    '{{index .Config.Labels "none"}}.': ".",
    "{{.Config.Labels.a}}{{.Config.Labels.none}}": "1<no value>",
    "{{(index .Mounts 1).Source}}": "/b",
    '{{index .Mounts 0 "Source"}}': "/a",
    "{{len .RepoTags}}{{len .Id}}": "210",
    '{{join .RepoTags ", "}}': "debian:12, debian:latest",
    '{{index (split .Id ":") 1}}': "abc",
    '{{.Id | upper}} {{title "a bc"}} {{lower "AB"}}': "SHA256:ABC A Bc ab",
    '{{truncate .Id 3}}{{pad "x" 1 2}}.{{pad "" 1 2}}.': "sha x  ..",
    "{{range .RepoTags}}<{{.}}>{{end}}": "<debian:12><debian:latest>",
    "{{range $i, $tag := .RepoTags}}{{if $i}},{{end}}{{$tag}}{{end}}": "debian:12,debian:latest",
    "{{range $key, $value := .Config.Labels}}{{$key}}={{$value}};{{end}}": "a=1;b=2;c.d=é<;",
    "{{range .Config.Cmd}}x{{else}}none{{end}}": "none",
    "{{range .Mounts}}{{if .RW}}{{continue}}{{end}}{{.Source}}{{break}}{{end}}": "/b",
    "{{range .Config.Env}}{{println .}}{{end}}": "A=1\nB=2\n",
    "{{range .Mounts}}{{.Source}}:{{$.Id}} {{end}}": "/a:sha256:abc /b:sha256:abc ",
    "{{with .Config}}{{.Tty}}{{end}}{{with .Parent}}x{{else}}no parent{{end}}": "falseno parent",
    "{{with $x := .Size}}{{$x}}{{end}}": "117",
    "{{if .Parent}}a{{else if .Size}}b{{else}}c{{end}}": "b",
    "{{if and .Size (not .Parent)}}yes{{end}}{{or .Parent .Id}}{{and .Parent .Nothing}}": "yessha256:abc",
    '{{if eq .Size 1 117}}a{{end}}{{if ne .Id "x"}}b{{end}}{{if lt .Size 118}}c{{end}}{{ge 1 2}}': "abcfalse",
    "{{$x := 1}}{{if true}}{{$x = 2}}{{$y := 3}}{{end}}{{$x}}": "2",
    "a \n{{- /* remark }} */ -}}\n b": "ab",
    "a {{- .Size -}} b": "a117b",
    '{{printf "%-5s|%05d|%x|%q|%v|%5.2f|%%" "ab" .Size 255 "a\\"b" .RepoTags 1.5}}': (
        'ab   |00117|ff|"a\\"b"|[debian:12 debian:latest]| 1.50|%'
    ),
    '{{printf "%d %s" "x"}}{{printf "%s" 1}}{{printf "a" 1}}': (
        "%!d(string=x) %!s(MISSING)%!s(int=1)a%!(EXTRA int=1)"
    ),
    "{{print 1 2}}{{print .Id 3}}": "1 2sha256:abc3",
    '{{slice .Id 0 6}}{{"}}"}}{{`"raw"`}}{{"\\t"}}.': 'sha256}}"raw"\t.',
}


@pytest.mark.parametrize("template", PRINTED)
def test_a_template_prints(template: str) -> None:
    assert Template(template).render(DATA) == PRINTED[template]


@pytest.mark.parametrize(
    ("template", "about"),
    [
        ("{{.Id", "without }}"),
        ("{{.Nope}}", "no field 'Nope'"),
        ("{{.Id.x}}", "'sha256:abc' has no field 'x'"),
        ("{{.Config.Cmd.x}}", "nil has no field"),
        ("{{nope .}}", "function 'nope' not defined"),
        ("{{range .RepoTags}}", "without {{end}}"),
        ("{{if .Id}}{{else}}{{else}}{{end}}", "without {{end}}"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{break}}", "outside"),
        ("{{range .Size}}{{end}}", "iterate"),
        ("{{index .RepoTags 9}}", "out of range"),
        ("{{index .RepoTags -1}}", "out of range"),
        ("{{slice .Id 3 1}}", "out of range"),
        ("{{join .Id}}", "wrong number"),
        ('{{join .Id ","}}', "not a list"),
        ("{{len .Size}}", "no length"),
        ("{{$x}}", "undefined variable"),
        ("{{range $x := .RepoTags}}{{end}}{{$x}}", "undefined variable"),
        ("{{.Id .Size}}", "only functions"),
        ("{{.Id | .Size}}", "must be a function"),
        ("{{(.Id}}", "without )"),
        ("{{}}", "unexpected end"),
        ("{{lt .Id 1}}", "no order"),
        ("{{eq .Id 1}}", "different types"),
        ('{{template "x"}}', "not supported"),
        ("{{.Id @}}", "unexpected '@'"),
        ("{{1 | len | lower}}", "no length"),
    ],
)
def test_what_is_refused_in_one_line(template: str, about: str) -> None:
    with pytest.raises(OptionError) as caught:
        Template(template).render(DATA)
    assert about in str(caught.value)
    assert "\n" not in str(caught.value)


GO = [
    "{{.Env}} {{.Labels}} {{len .Env}} {{.Os}}",
    '{{index .Labels "a"}}{{index .Labels "none"}}.{{.Labels.b}}{{.Labels.none}}',
    "{{range $k, $v := .Labels}}{{$k}}{{$v}},{{else}}none{{end}}{{range .RepoTags}}{{else}}none{{end}}",
    "{{range $i, $e := .Env}}{{if $i}}{{continue}}{{end}}{{$e}}{{end}}{{with .Os}}{{.}}{{end}}",
    '{{printf "%q %5s %-5s| %d %05d %x %v %t" .Os "a" "b" 7 42 255 .Env true}} {{printf "%d %s" "x"}}',
    '{{if and .Os (not .Tag)}}{{or .Tag .Os}}{{end}} {{eq .Os "a" "linux"}} {{ne 1 2}} {{lt 1.5 2.5}}',
    '{{print 1 2 "a" "b" 3 4}}{{println 1 "a"}}{{slice .Os 1 3}}{{index .Os 0}} {{1.0}} {{1e3}} {{0.00001}}',
    "  {{- /* x */ -}}  {{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}} {{'a'}} {{printf \"%v\" nil}}",
]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo, whose templates are Go's own")
def test_a_program_in_go_prints_the_same(tmp_path: Path) -> None:
    config = {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}}
    layout = make_image(tmp_path / "layout", [[file("a")]], config)
    seen = {**config, "Os": "linux", "Architecture": "amd64", "Tag": "", "RepoTags": []}
    template = "\n---\n".join(GO)
    done = subprocess.run(
        ["skopeo", "inspect", "--format", template, f"oci:{layout}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Template(template).render(seen).split("\n---\n") == done.stdout.removesuffix("\n").split("\n---\n")
