"""Tables as people have them: each gives the labels that it means, or one line says what settles it.

A case is the text of a table, the options, and its right answer: the classes and the labels of each image, or a
message. Images 0.jpg to 3.jpg lie in the root, 4.JPG and 5.png in folders below it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masksup.data.prepare.csv import prepare_csv
from masksup.errors import UserError


@dataclass
class Case:
    text: str | bytes
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ("cat", "dog")
    labels: list[list[int]] = field(default_factory=lambda: [[1, 1], [0, 1]])
    images: list[str] = field(default_factory=lambda: ["0.jpg", "1.jpg"])
    said: str = ""
    name: str = "t.csv"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables") / "photos"
    for number, name in enumerate(("0.jpg", "1.jpg", "2.jpg", "3.jpg", "in/4.JPG", "in/deep/5.png", "#0.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(root / name)
    return root


def prepared(root: Path, case: Case) -> Any:
    file = root.parent / case.name
    data = case.text if isinstance(case.text, bytes) else case.text.encode()
    file.write_bytes(data.replace(b"ROOT", str(root).encode()))
    return prepare_csv(root, split=[f"t={file}"], **case.options)[0]


LIST = "image,labels\n0.jpg,{}\n1.jpg,{}\n"
COLUMNS = "image,cat,dog\n0.jpg,{},{}\n1.jpg,{},{}\n"
TWO = [[1, 1], [0, 1]]

RIGHT = {
    # Letters, ends of lines, delimiters
    "byte order mark": Case("\ufeff" + LIST.format("cat|dog", "dog")),
    "CRLF": Case(LIST.format("cat|dog", "dog").replace("\n", "\r\n")),
    "old Mac ends": Case(LIST.format("cat|dog", "dog").replace("\n", "\r")),
    "UTF-16 of a spreadsheet": Case("image\tlabels\r\n0.jpg\tcat|dog\r\n1.jpg\tdog\r\n".encode("utf-16")),
    "UTF-16 big endian": Case(b"\xfe\xff" + LIST.format("cat|dog", "dog").encode("utf-16-be")),
    "Latin-1, named": Case(
        LIST.format("\xe9t\xe9|cat", "cat").encode("latin-1"),
        {"encoding": "latin-1"},
        ("cat", "\xe9t\xe9"),
        [[1, 1], [1, 0]],
    ),
    "tabs": Case(LIST.format("cat|dog", "dog").replace(",", "\t"), name="t.tsv"),
    "semicolons": Case(COLUMNS.format(1, 1, 0, 1).replace(",", ";")),
    "semicolons, no header": Case("0.jpg;cat|dog\n1.jpg;dog\n"),
    "sep= of Excel": Case("sep=;\n" + LIST.format("cat|dog", "dog").replace(",", ";")),
    "quoted, blank lines, blanks, trailing separators": Case(
        '\n"image" , "labels" ,\n\n 0.jpg , "cat | dog",\n,,\n"1.jpg", dog ,,\n\n'
    ),
    "trailing separators of columns": Case("image,cat,dog,\n0.jpg,1,1,\n1.jpg,0,1,,\n"),
    "row numbers of pandas": Case(",image,cat,dog\n0,0.jpg,1,1\n1,1.jpg,0,1\n"),
    "row numbers of pandas, written twice, as fractions": Case(
        ",Unnamed: 0,image,cat,dog,Unnamed: 5\n0.0,0,0.jpg,1,1,\n1.0,1,1.jpg,0,1,\n"
    ),
    "a column that is seldom a class": Case(
        "image,fold,dog\n0.jpg,1,1\n1.jpg,0,1\n",
        {},
        ("fold", "dog"),
        said="'fold' becomes a class.*--ignore-column 'fold'",
    ),
    "ids of 1 and 0": Case(
        "id,filename,dog\n1,0.jpg,1\n0,1.jpg,1\n",
        {},
        ("id", "dog"),
        labels=[[1, 1], [0, 1]],
        said="--ignore-column 'id'",
    ),
    "bars": Case(COLUMNS.format(1, 1, 0, 1).replace(",", "|")),
    "bars, labels joined by commas": Case("image|labels\n0.jpg|cat,dog\n1.jpg|dog\n", {"separator": ","}),
    "blanks": Case("image  cat dog\n0.jpg  1 1\n1.jpg  0   1 \n"),
    "blanks, no header": Case(" 0.jpg  1 1\n 1.jpg  0 1\n", {"classes": "cat,dog"}),
    "commas, no header": Case("0.jpg,1,1\n1.jpg,0,1\n", {"classes": "cat,dog"}),
    "comments": Case("# by hand, 2020\nimage,labels\n0.jpg,cat|dog\n# more\n1.jpg,dog\n# end\n"),
    "a header behind #": Case("#image,cat,dog\n0.jpg,1,1\n1.jpg,0,1\n"),
    "an image behind #": Case("image,labels\n#0.jpg,cat|dog\n", images=["#0.jpg"], labels=[[1, 1]]),
    "two tables, one after the other": Case(
        LIST.format("cat|dog", "dog") + "image,labels\n2.jpg,cat\n",
        labels=[[1, 1], [0, 1], [1, 0]],
        images=["0.jpg", "1.jpg", "2.jpg"],
    ),
    "mixed ends of lines": Case("image,labels\r\n0.jpg,cat|dog\n1.jpg,dog\r"),
    "sep= in quotes": Case('\ufeff"sep=;"\r\nimage;labels\r\n0.jpg;cat|dog\r\n1.jpg;dog\r\n'),
    "a line break in a cell": Case('image,labels\n"0.jpg\n","cat\n|dog"\n1.jpg,dog\n'),
    "a Label Studio export": Case(
        "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n"
        '7,1,"{""choices"":[""cat"",""dog""]}",2022-01-01,1,0.jpg,3.2,2022-01-01\n8,1,dog,2022-01-02,2,1.jpg,1,2022\n'
    ),
    # Headers
    **{
        f"header {name}": Case(LIST.format("cat|dog", "dog").replace("image,", f"{name},"))
        for name in ("filename", "file", "Path", "image_id", "image_name", "Image Index", "IMAGE PATH", "img", "id")
    },
    "a path before an id": Case("id,filename,Finding Labels\n17,0.jpg,cat|dog\n18,1.jpg,dog\n", said="'id'"),
    "columns after labels": Case("labels,width,image\ncat|dog,640,0.jpg\ndog,32,1.jpg\n", said="not used .*'width'"),
    "named columns": Case(
        "Foto,Befund\n0.jpg,cat|dog\n1.jpg,dog\n", {"image_column": "Foto", "labels_column": ["Befund"]}
    ),
    "numbers as labels, named": Case(
        LIST.format("1", "0"), {"labels_column": ["labels"]}, ("0", "1"), [[0, 1], [1, 0]]
    ),
    "several columns of labels": Case("image,tag1,tag2\n0.jpg,cat,dog\n1.jpg,dog,\n", {"labels_column": ["tag1,tag2"]}),
    "one of several columns of labels": Case(
        "image,label,label_2\n0.jpg,cat,big\n1.jpg,dog,red\n",
        {"labels_column": ["label"]},
        labels=[[1, 0], [0, 1]],
        said="not used .*'label_2'",
    ),
    "a column that pandas met twice": Case(
        "image,cat,cat.1\n0.jpg,1,1\n1.jpg,0,1\n", {}, ("cat", "cat.1"), said="'cat.1' is what pandas.*--ignore-column"
    ),
    "a column of splits, ignored": Case(
        "image,labels,split\n0.jpg,cat|dog,train\n1.jpg,dog,val\n", {"ignore_column": ["split"]}
    ),
    "a column of one split": Case(
        "image,labels,split\n0.jpg,cat|dog,train\n1.jpg,dog,train\n", said="not used beside 'labels': 1 column 'split'"
    ),
    "an ignored column": Case("image,cat,age,dog\n0.jpg,1,7,1\n1.jpg,0,9,1\n", {"ignore_column": ["age"]}),
    "ignored columns, one list": Case(
        "image,cat,age,dog,sex\n0.jpg,1,7,1,f\n1.jpg,0,9,1,m\n", {"ignore_column": ["age,sex"]}
    ),
    # Values
    "1.0": Case(COLUMNS.format("1.0", "1.0", "0.0", "1.0")),
    "1,0 of a spreadsheet": Case(COLUMNS.replace(",", ";").format("1,0", "1,0", "0,0", "1,00")),
    "True": Case(COLUMNS.format("True", "TRUE", "False", "true")),
    "yes": Case(COLUMNS.format("yes", "Y", "no", "y")),
    "x and blank": Case(COLUMNS.format("x", "X", "", "x"), said="empty cells .1. mean absent.*--ignored blank"),
    "1 and blank": Case(COLUMNS.format("1", "1", "", "1")),
    "blank among 0, named": Case(
        "image,cat,dog\n0.jpg,1,1\n1.jpg,0,\n", {"ignored": ["blank"]}, labels=[[1, 1], [0, -1]]
    ),
    "blank among 0, absent": Case("image,cat,dog\n0.jpg,1,1\n1.jpg,,0\n", {"absent": [""]}, labels=[[1, 1], [0, 0]]),
    "-1 is unknown where 0 is there": Case(
        "image,cat,dog\n0.jpg,1,0\n1.jpg,0,-1\n2.jpg,-1,1\n",
        labels=[[1, 0], [0, -1], [-1, 1]],
        images=["0.jpg", "1.jpg", "2.jpg"],
    ),
    "-1 is absent, named": Case(COLUMNS.format(1, 1, -1, 1), {"absent": ["-1"]}),
    "-1 is unknown, named": Case(COLUMNS.format(1, 1, -1, 1), {"ignored": ["-1"]}, labels=[[1, 1], [-1, 1]]),
    "-1.0": Case(COLUMNS.format("1.0", "1.0", "-1.0", "1.0"), {"absent": ["-1"]}),
    "VOC": Case(COLUMNS.format(1, 0, -1, 1), {"absent": ["-1"], "ignored": ["0"]}, labels=[[1, -1], [0, 1]]),
    "VOC, 0 forgotten": Case(
        COLUMNS.format(1, 0, -1, 1), {"absent": ["-1"]}, labels=[[1, 0], [0, 1]], said="--ignored 0"
    ),
    "uncertain as present": Case(
        "image,cat,dog\n0.jpg,1,1\n1.jpg,0,-1\n2.jpg,0,0\n",
        {"uncertain": "present"},
        labels=[[1, 1], [0, 1], [0, 0]],
        images=["0.jpg", "1.jpg", "2.jpg"],
        said="1 uncertain label taken as present",
    ),
    "uncertain as absent": Case(
        "image,cat,dog\n0.jpg,1,1\n1.jpg,0,-1\n2.jpg,0,0\n",
        {"uncertain": "absent"},
        labels=[[1, 1], [0, 0], [0, 0]],
        images=["0.jpg", "1.jpg", "2.jpg"],
        said="taken as absent",
    ),
    "a word of one's own": Case(COLUMNS.format("1", "1", "nein", "1"), {"absent": ["nein"]}),
    "words of one's own": Case(COLUMNS.format("ja", "ja", "nein", "ja"), {"present": ["ja"], "absent": ["nein"]}),
    "grades": Case(COLUMNS.format(2, 1, 0, 2), {"present": ["2"]}),
    "a grade nobody is sure of": Case(COLUMNS.format(2, 1, 0, 1), {"ignored": ["2"]}, labels=[[-1, 1], [0, 1]]),
    # Separators
    "commas, named": Case(LIST.format('"cat,dog"', "dog"), {"separator": ","}),
    "commas without quotes, named": Case(LIST.format("cat,dog", "dog"), {"separator": ","}),
    "commas without quotes or header, named": Case("0.jpg,cat,dog\n1.jpg,dog\n", {"separator": ","}),
    "spaces, named": Case(LIST.format("cat  dog", "dog"), {"separator": "space"}),
    "semicolons, named": Case(LIST.format("cat; dog", "dog"), {"separator": ";"}),
    "a Python list": Case(LIST.format("\"['cat', 'dog']\"", "['dog']")),
    "a JSON list": Case(LIST.format('"[""cat"", ""dog""]"', '"[""dog""]"')),
    "a numpy list": Case(LIST.format("['cat' 'dog']", "['dog']")),
    "a set and an empty list": Case(LIST.format("\"{'cat', 'dog'}\"", "[]"), labels=[[1, 1], [0, 0]]),
    "--classes leaves nothing to guess": Case(LIST.format('"cat,dog"', "dog"), {"classes": "cat,dog"}),
    "names of two words, kept": Case(
        LIST.format("big dog", "red cat"), {"separator": "|"}, ("big dog", "red cat"), [[1, 0], [0, 1]]
    ),
    "names of two words beside |": Case(
        LIST.format("big dog|red cat", "big dog"), {}, ("big dog", "red cat"), [[1, 1], [1, 0]]
    ),
    # Classes
    "--classes selects": Case(
        LIST.format("cat|dog|horse", "dog|cow"), {"classes": "cat,dog"}, said="'horse' .1., 'cow' .1."
    ),
    "--classes selects columns": Case(
        "image,cow,dog,cat\n0.jpg,0,1,1\n1.jpg,1,1,0\n", {"classes": "cat,dog"}, said="'cow'"
    ),
    "--drop-class": Case(LIST.format("cat|dog|cow", "dog|cow"), {"drop_class": ["cow"]}),
    "--none": Case(LIST.format("cat|dog", "No Finding"), {"none": ["No Finding"]}, labels=[[1, 1], [0, 0]]),
    "--none of a column": Case("image,cat,background,dog\n0.jpg,1,0,1\n1.jpg,0,0,1\n", {"none": ["background"]}),
    "none with others": Case(
        LIST.format("cat|dog", "none|dog"), {"none": ["none"]}, said="1 row of no label .--none. with others"
    ),
    "--same-case": Case(
        LIST.format("Cat|dog", "dog|DOG"), {"same_case": True}, ("Cat", "dog"), said="2|'DOG' as 'dog'"
    ),
    "--same-case of columns": Case(
        "image,Cat,dog,cat\n0.jpg,1,1,0\n1.jpg,0,1,0\n", {"same_case": True}, ("Cat", "dog"), said="'cat' as 'Cat'"
    ),
    **{
        f"warned of {name}": Case(
            LIST.format("cat", name),
            {"separator": "|"},
            tuple(sorted(("cat", name))),
            [[1, 0], [0, 1]] if name > "cat" else [[0, 1], [1, 0]],
            said=f"'{name}' becomes a class.*--none",
        )
        for name in ("NA", "None", "nan", "No Finding", "background")
    },
    "warned of case": Case(
        LIST.format("Cat", "cat|dog"), {}, ("Cat", "cat", "dog"), [[1, 0, 0], [0, 1, 1]], said="--same-case"
    ),
    "warned of blanks": Case(
        LIST.format("big dog|cat", "bigdog"),
        {},
        ("big dog", "bigdog", "cat"),
        [[1, 0, 1], [0, 1, 0]],
        said="--same-case",
    ),
    "warned of accents": Case(
        LIST.format("caf\u00e9", "cafe\u0301"),
        {},
        ("cafe\u0301", "caf\u00e9"),
        [[0, 1], [1, 0]],
        said="--same-case",
    ),
    "a number in three ways": Case(
        "image,labels\n0.jpg,3.0|7\n1.jpg,3\n2.jpg,03\n",
        {"same_case": True},
        ("3.0", "7"),
        [[1, 1], [1, 0], [1, 0]],
        ["0.jpg", "1.jpg", "2.jpg"],
        said="2 spellings taken as the same class",
    ),
    "1 and 0 as labels, no header, named": Case("0.jpg,1\n1.jpg,0\n", {"classes": "0,1"}, ("0", "1"), [[0, 1], [1, 0]]),
    # Images
    "ids with --suffix": Case(LIST.format("cat|dog", "dog").replace(".jpg", ""), {"suffix": ".jpg"}),
    "--suffix without a dot, no header": Case("0,cat|dog\n1,dog\n", {"suffix": "jpg"}),
    "absolute paths": Case(LIST.format("cat|dog", "dog").replace("\n", "\nROOT/", 2)),
    "absolute paths of another machine": Case(
        "image,labels\nC:\\data\\0.jpg,cat|dog\nC:\\data\\1.jpg,dog\n", {"strip": "C:\\data"}
    ),
    "addresses": Case("image,labels\nhttps://x.org/0.jpg,cat|dog\n1.jpg,dog\n", {"strip": "https://x.org/"}),
    "the root's own name": Case(LIST.format("cat|dog", "dog").replace("\n", "\nphotos/", 2), said="2 images found"),
    "backslashes and ./": Case("image,labels\n.\\0.jpg,cat|dog\nin\\..\\1.jpg,dog\n"),
    "another case": Case(
        "image,labels\n0.JPG,cat|dog\nin/4.jpg,dog\n",
        images=["0.jpg", "in/4.JPG"],
        said="2 images found in another case",
    ),
    "a folder left out": Case(
        "image,labels\n5.png,cat|dog\n1.jpg,dog\n", images=["in/deep/5.png", "1.jpg"], said="5.png is in/deep/5.png"
    ),
    "rows that repeat": Case(LIST.format("cat|dog", "dog") + "1.jpg,dog\n", said="left out 1 row that repeat"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_table_means(root: Path, name: str) -> None:
    case = RIGHT[name]
    content = prepared(root, case)
    assert content.classes == case.classes
    assert content.labels_NC.tolist() == case.labels
    assert content.image_names == case.images
    said = "\n".join(content.warnings)
    assert bool(said) == bool(case.said) or name in ("1 and blank", "the root's own name"), said
    assert re.search(case.said, said), said


REFUSED = {
    "an unknown header": (
        "foo,bar\n0.jpg,cat\n",
        {},
        r"line 1: .*the header 'foo,bar', expected 'image,labels'.*filename",
    ),
    "an unknown header, broken images skipped": ("foo,bar\n0.jpg,cat\n", {"skip_broken": True}, "header 'foo,bar'"),
    "an unknown header of columns": (
        "foo,cat,dog\n0.jpg,1,0\n",
        {"skip_broken": True},
        "header 'foo,cat,dog'.*--image-col",
    ),
    "an unknown column of labels": (
        "image,foo\n0.jpg,cat|dog\n1.jpg,dog\n",
        {},
        "header 'image,foo'.*--labels-column 'foo'",
    ),
    "a number for a class": (
        "image,cat,age\n0.jpg,1,42\n",
        {},
        "line 2: found '42' for class 'age'.*--ignore-column 'age'",
    ),
    "a value nobody knows": (
        COLUMNS.format(1, "nein", 0, 1),
        {},
        "found 'nein' for class 'dog'.*--absent or --ignored",
    ),
    "-1 without a 0": (
        COLUMNS.format(1, 0, -1, 1),
        {},
        "found -1 but never 0 for class 'cat' .1 of 2.*--absent -1.*--ignored -1",
    ),
    "-1 most of the time, fewer 0 than 1": (
        "image,cat\n"
        + "".join(f"{n}.jpg,{v}\n" for n, v in enumerate((1, 1, 0, -1)))
        + "in/4.JPG,-1\nin/deep/5.png,-1\n"
        "x.jpg,-1\n",
        {},
        "found -1 in 57 % .*--absent -1",
    ),
    "blank or 0": (
        "image,cat,dog\n0.jpg,1,\n1.jpg,0,1\n",
        {},
        "line 2: found '' for class 'dog'.*--absent blank.*--ignored blank",
    ),
    "a value named twice": (
        COLUMNS.format(1, 1, -1, 1),
        {"absent": ["-1"], "ignored": ["-1"]},
        "--ignored: found '-1', which",
    ),
    "commas in quotes": (LIST.format('"cat,dog"', "dog"), {}, r"line 2: found the labels 'cat,dog', .*--separator ','"),
    "commas without quotes": (LIST.format("cat,dog", "dog"), {}, "line 2: .*found 3 columns, expected 2.*--separator"),
    "semicolons": (LIST.format("cat;dog", "dog"), {}, "--separator ';'"),
    "spaces": (LIST.format("cat dog", "dog"), {}, "which space seems to join.*--separator space"),
    "spaces in most": (LIST.format("cat dog", "cow horse"), {}, "2 of 2 names.*--separator space .*'|' keeps"),
    "two ways": (LIST.format("cat|dog", '"cat,dog"'), {}, "line 3: found the labels 'cat,dog'.*1 of 3 names"),
    "a list and a name": (LIST.format("\"['cat', 'dog']\"", "dog"), {}, "line 3: found the labels 'dog', but a list"),
    "Latin-1": (LIST.format("\xe9t\xe9", "cat").encode("latin-1"), {}, 'no UTF-8 .*"CSV UTF-8".*--encoding latin-1'),
    "UTF-16 without a mark": (LIST.format("cat", "dog").encode("utf-16-le"), {}, 'NUL bytes.*"CSV UTF-8"'),
    "an unknown encoding": (
        LIST.format("cat", "dog"),
        {"encoding": "klingon"},
        "--encoding: found the unknown 'klingon'",
    ),
    "ids without --suffix": (
        LIST.format("cat", "dog").replace(".jpg", ""),
        {"skip_broken": True},
        r"'0' without .*--suffix \.jpg",
    ),
    "a misspelt class": (
        LIST.format("cat", "dgo"),
        {"classes": "cat,dog"},
        "'dgo'; did you mean 'dog'.*--drop-class 'dgo'",
    ),
    "a class in another case": (LIST.format("Cat", "dog"), {"classes": "cat,dog"}, "'Cat'; .*--same-case"),
    "nothing to drop": (
        LIST.format("cat", "dog"),
        {"drop_class": ["dgo"]},
        "--drop-class: found no class 'dgo'; did you mean 'dog'",
    ),
    "nothing to ignore": (COLUMNS.format(1, 0, 0, 1), {"ignore_column": ["age"]}, "--ignore-column: found no 'age'"),
    "labels beside columns": ("image,label,dog\n0.jpg,cat,1\n1.jpg,cow,0\n", {}, "found 'dog', which could be a class"),
    "numbers as labels": (
        "image,label\n0.jpg,1\n1.jpg,0\n",
        {},
        "nothing but 0, 1 in column 'label'; --labels-column 'label'",
    ),
    "numbers as labels, no header": ("0.jpg,1\n1.jpg,0\n", {}, "nothing but 0, 1 .*--classes 0,1 if .*a header"),
    "a vector in a cell": (
        LIST.format('"[1, 0, 1]"', '"[0, 0, 1]"'),
        {},
        r"found the labels '\[1, 0, 1\]' and nothing but 0 and 1.*--classes 0,1 if",
    ),
    "a vector of blanks": (LIST.format("1 0 1", "0 0 1"), {"separator": "space"}, "found the labels '1 0 1' and"),
    "a vector of digits": (LIST.format("101", "001"), {}, "found the labels '101' and nothing but"),
    "pairs": (LIST.format("\"{'cat': 1, 'dog': 0}\"", "\"{'cat': 0, 'dog': 1}\""), {}, "pairs of names and values"),
    "a column without a name": (
        "image,Unnamed: 1,dog\n0.jpg,1,1\n1.jpg,0,1\n",
        {},
        "a column without a name .'Unnamed: 1'.*--ignore-column 'Unnamed: 1'",
    ),
    "slashes": (LIST.format("cat/dog", "dog"), {}, "--separator '/'"),
    "a column of splits": (
        "image,labels,Split\n0.jpg,cat,train\n1.jpg,dog,test\n2.jpg,dog,train\n",
        {},
        r"line 1: found rows of several splits in column 'Split' \(train \(2\), test \(1\)\); --split-column 'Split' .*"
        "--ignore-column 'Split'",
    ),
    "a column of splits beside classes": (
        "image,cat,dog,subset\n0.jpg,1,0,train\n1.jpg,0,1,val\n",
        {},
        "several splits in column 'subset'",
    ),
    "is_valid beside classes": (
        "image,cat,dog,is_valid\n0.jpg,1,0,True\n1.jpg,0,1,False\n",
        {},
        r"'is_valid' \(val \(1\), train \(1\)\)",
    ),
    "a split without a name": (
        "image,labels,split\n0.jpg,cat,train\n1.jpg,dog,\n",
        {"split_column": "split"},
        "line 3: found the split '' in",
    ),
    "no such column of splits": (
        LIST.format("cat", "dog"),
        {"split_column": "label"},
        "--split-column: found no 'label'; did you mean 'labels'",
    ),
    "a word nobody named": (
        COLUMNS.format("ja", "nein", "nein", "ja"),
        {"absent": ["nein"]},
        "found 'ja' .*--present, --absent or --ignored 'ja'",
    ),
    "a share": (COLUMNS.format("0.37", 0, 0, 1), {}, "line 2: found '0.37' for class 'cat'.*of a share, write 1 from"),
    "a percentage": (COLUMNS.format("37 %", 0, 0, 1), {}, "found '37 %' .*of a share, write 1 from"),
    "several columns of labels, not named": (
        "image,label_1,label_2\n0.jpg,cat,dog\n1.jpg,dog,\n",
        {},
        "--labels-column 'label_1,label_2' joins them",
    ),
    "a column twice": ("image,image,cat\n0.jpg,1.jpg,1\n", {}, "line 1: found the column 'image' twice"),
    "labels twice": ("image,labels,labels\n0.jpg,cat,dog\n", {}, "line 1: found the column 'labels' twice"),
    "a class twice": ("image,cat,cat\n0.jpg,1,0\n", {}, "line 1: found the class 'cat' twice"),
    "nothing below the header": ("image,labels\n", {}, "found a header and no row below it"),
    "columns of 1 and 0 without a header": (
        "0.jpg 1 0 1\n1.jpg 0 0 1\n",
        {},
        "found no header above 3 columns of 1 and 0.*--classes A,B",
    ),
    "numbers of classes, blanks": ("0.jpg 3 7 11\n1.jpg 2\n", {}, "line 2: malformed CSV: found 2 columns, expected 4"),
    "classes that no row has": (
        LIST.format("cat", "dog"),
        {"classes": "0 cat,1 dog"},
        r"--classes: found none of 0 cat, 1 dog, .*\(cat, dog",
    ),
    "the same image with other labels": (
        "image,cat,dog\n0.jpg,1,0\n0.jpg,0,1\n",
        {},
        "line 3: found a second sample .*expected each image once$",
    ),
    "an absolute path of another machine": (
        LIST.format("cat", "dog").replace("0.jpg", "/home/me/data/in/deep/5.png"),
        {},
        "line 2: found no image '/home/me/data/in/deep/5.png' .*; --strip '/home/me/data' takes it as in/deep/5.png",
    ),
    "an absolute path, later": (
        LIST.format("cat", "dog").replace("1.jpg", "D:/x/1.jpg"),
        {},
        "line 3: found the path 'D:/x/1.jpg', .*; --strip 'D:/x' takes it as 1.jpg, which is there",
    ),
    "a folder of another machine": (
        LIST.format("cat", "dog").replace("0.jpg", "data/0.jpg"),
        {"skip_broken": True},
        "--strip 'data' takes it as 0.jpg",
    ),
    "nothing to strip": (
        LIST.format("cat", "dog"),
        {"strip": "/mnt"},
        "--strip /mnt/: found no image whose name begins",
    ),
    "no name of an image": ("image,labels\n,cat\n1.jpg,dog\n", {}, "line 2: found no name of an image"),
    "Excel": (b"PK\x03\x04\0\0", {}, 'found an Excel or ZIP file, .*"CSV UTF-8"'),
    "JSON": ('{"images": []}', {}, "found JSON .of COCO, `prepare coco` reads it"),
    "a VIA export": (
        'filename,file_size,file_attributes,region_count\n0.jpg,100,"{}",1\n',
        {},
        "found '100' for class 'file_size'",
    ),
    "one row a label": ("image,label\n0.jpg,cat\n0.jpg,dog\n", {}, "line 3: .*a second sample.*`prepare long`"),
    "a path out of the root": (
        LIST.format("cat", "dog").replace("0.jpg", "/etc/0.jpg"),
        {},
        "found no image '/etc/0.jpg' .*; --strip '/etc' takes it as 0.jpg",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_what_settles_it(root: Path, name: str) -> None:
    text, options, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        prepared(root, Case(text, options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_column_of_splits_makes_a_split_of_each_value(root: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,is_valid,cat,dog\n0.jpg,False,1,0\n1.jpg,True,0,1\n2.jpg,False,1,1\n")
    train, val = prepare_csv(root, csv=[str(tmp_path / "t.csv")], split_column="is_valid")
    assert (train.split, train.image_names, train.labels_NC.tolist()) == ("train", ["0.jpg", "2.jpg"], [[1, 0], [1, 1]])
    assert (val.split, val.image_names, val.labels_NC.tolist(), val.classes) == (
        "val",
        ["1.jpg"],
        [[0, 1]],
        ("cat", "dog"),
    )
    (tmp_path / "u.csv").write_text("image,cat\n3.jpg,1\n")
    with pytest.raises(UserError, match="--split-column: found 2 tables"):
        prepare_csv(root, csv=[str(tmp_path / "t.csv"), str(tmp_path / "u.csv")], split_column="is_valid")


def test_an_image_that_lies_in_two_folders_is_named(tmp_path: Path) -> None:
    for name in ("x/a.jpg", "y/a.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("image,labels\na.jpg,cat\n")
    with pytest.raises(UserError, match=r"line 2: found 2 images called 'a.jpg' .x/a.jpg and y/a.jpg."):
        prepare_csv(tmp_path, skip_broken=True)


def test_the_meaning_of_values_is_that_of_all_tables_together(root: Path, tmp_path: Path) -> None:
    """A class of a small split may lack any 0 by chance."""
    (tmp_path / "a.csv").write_text("image,cat\n0.jpg,0\n1.jpg,1\n")
    (tmp_path / "b.csv").write_text("image,cat\n2.jpg,1\n3.jpg,-1\n")
    contents = prepare_csv(root, csv=[str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert [content.labels_NC[:, 0].tolist() for content in contents] == [[0, 1], [1, -1]]


def test_real_voc_labels_are_refused_until_minus_one_is_named(shared_data: Path, tmp_path: Path) -> None:
    table = shared_data / "voc2007_labels" / "classification_trainval.csv"
    with pytest.raises(UserError, match=r"found -1 .*--absent -1"):
        prepare_csv(tmp_path, csv=[str(table)])


def test_parquet_gives_the_same_labels(root: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names = {"image": ["0.jpg", "1.jpg"]}
    for more in ({"labels": [["cat", "dog"], ["dog"]]}, {"cat": [True, False], "dog": [1.0, 1.0]}):
        parquet.write_table(pyarrow.table(names | more), tmp_path / "t.parquet")
        (content,) = prepare_csv(root, csv=[str(tmp_path / "t.parquet")])
        assert (content.classes, content.labels_NC.tolist()) == (("cat", "dog"), TWO)


def test_without_pyarrow_one_line_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"t\.parquet: Parquet needs pyarrow.*masksup\[parquet\]"):
        prepare_csv(root, csv=[str(tmp_path / "t.parquet")])


def test_a_name_with_an_accent_is_found_however_the_system_writes_it(tmp_path: Path) -> None:
    """macOS keeps an accent as a letter of its own."""
    Image.new("RGB", (8, 6)).save(tmp_path / "cafe\u0301.jpg")
    (tmp_path / "t.csv").write_text("image,labels\ncaf\u00e9.jpg,cat\n", encoding="utf-8")
    (content,) = prepare_csv(tmp_path)
    assert content.image_names == ["cafe\u0301.jpg"]
    assert "1 image found in another case" in content.warnings[0]
