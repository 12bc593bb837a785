# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host, a whole list at once: content, owner and mode, and parameters of the kernel below /sys and /proc."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Iterable, Mapping

from ._errors import BadInput, StackError
from ._plan import Plan, Refusal, Step
from ._run import Runner

_HIDDEN = "(hidden)"
_BEGIN, _END = "# BEGIN selfhosted.llm_stack\n", "# END selfhosted.llm_stack\n"
# What stands for the path of the new file in a command that validates it.
_CANDIDATE = "%s"


@dataclass(frozen=True)
class WantedFile:
    """A file as declared.

    :param in_place: written to and never replaced or created: a parameter of the kernel.
    :param secret: its content is shown nowhere.
    :param block: the content is a part of a file that others wrote; the rest of it stays.
    :param marker: words that a file written by the same role holds; a file without them is another's.
    :param leave_others: such a file of another's is left as it is, and not refused.
    :param validate: a command that must accept the new file before it takes its place; ``%s`` stands for its path.
    """

    path: str
    content: str = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    in_place: bool = False
    secret: bool = False
    block: bool = False
    marker: str = ""
    leave_others: bool = False
    validate: tuple[str, ...] = ()

    @property
    def shown(self) -> Any:
        """The content as a diff may show it."""
        return _HIDDEN if self.secret else self.content.splitlines()


@dataclass(frozen=True)
class FoundFile:
    """A file as it is; ``content`` is None where there is none."""

    content: str | None = field(default=None, repr=False)
    mode: int = 0
    owner: str = ""
    group: str = ""


def parse_files(options: Iterable[Mapping[str, Any]]) -> tuple[WantedFile, ...]:
    """Check the option ``files``.

    :raises BadInput: at the first fault.
    """
    files = tuple(_wanted(option) for option in options)
    paths = [file.path for file in files]
    for path in paths:
        if paths.count(path) > 1:
            raise BadInput(f"The file {path} is declared {paths.count(path)} times in files. Declare it once.")
    return files


def _wanted(option: Mapping[str, Any]) -> WantedFile:
    path = option["path"]
    if not Path(path).is_absolute():
        raise BadInput(f"The path {path!r} in files is relative. Write it from the root.")
    if (option.get("content") is None) == (option.get("secret_content") is None):
        raise BadInput(f"The file {path} needs exactly one of content and secret_content.")
    if not re.match(r"^0?[0-7]{3}$", option["mode"]):
        raise BadInput(f"The mode {option['mode']!r} of {path} is not octal. Write it as '0644'.")
    validate = tuple(option.get("validate") or ())
    if validate and _CANDIDATE not in validate:
        raise BadInput(f"The command in validate of {path} lacks {_CANDIDATE}, which stands for the file it must look at.")
    secret = option.get("content") is None
    return WantedFile(
        path=path,
        content=option["secret_content"] if secret else option["content"],
        mode=int(option["mode"], 8),
        owner=option["owner"],
        group=option["group"],
        in_place=bool(option.get("in_place")),
        secret=secret,
        block=bool(option.get("block")),
        marker=option.get("marker") or "",
        leave_others=bool(option.get("leave_others")),
        validate=validate,
    )


def read_file(path: str) -> FoundFile:
    """Read one file.

    :raises StackError: when something other than a file is there, or it cannot be read.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise StackError(f"{path} is no regular file. Move it away, so that the file can be written.")
        content = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return FoundFile()
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror}. Check what is there.") from error
    return FoundFile(content, stat.S_IMODE(found.st_mode), _name(pwd.getpwuid, found.st_uid), _name(grp.getgrgid, found.st_gid))


def _name(look_up: Any, number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def plan(found: Mapping[str, FoundFile], wanted: Iterable[WantedFile]) -> Plan:
    """Plan all files: write those whose content differs, correct owner and mode of the others, refuse those of others."""
    steps: list[Step] = []
    refusals: list[Refusal] = []
    warnings: list[str] = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for declared in wanted:
        have = found[declared.path]
        want = _merged(have, declared)
        if want.in_place and have.content is None:
            warnings.append(f"{want.path} does not exist: the kernel module it belongs to is not loaded. Left out.")
        elif want.marker and have.content is not None and want.marker not in have.content:
            if want.leave_others:
                warnings.append(f"{want.path} does not say {want.marker!r}, so somebody else wrote it. It is left as it is.")
            else:
                refusals.append(_of_another(want))
        elif not _same_content(have, want):
            steps.append(Step("write", want.path, f"Write {want.path}", want))
            before[want.path] = _HIDDEN if want.secret else (have.content or "").splitlines()
            after[want.path] = want.shown
        elif not want.in_place and (have.mode, have.owner, have.group) != (want.mode, want.owner, want.group):
            was, becomes = _access(have), _access(want)
            steps.append(Step("protect", want.path, f"Set owner and mode of {want.path} to {becomes}: they are {was}", want))
            before[want.path], after[want.path] = was, becomes
    return Plan(steps=tuple(steps), refusals=tuple(refusals), warnings=tuple(warnings), before=before, after=after)


def _of_another(want: WantedFile) -> Refusal:
    reason = f"Refusing to replace {want.path}: it does not say {want.marker!r}, so somebody else wrote it. "
    return Refusal(want.path, reason + "Move what it says into the variables, and the file away.")


def _merged(have: FoundFile, want: WantedFile) -> WantedFile:
    """The whole file that a block is a part of, with its owner and mode as they are; another file as it is."""
    if not want.block:
        return want
    block = _BEGIN + want.content + _END
    if have.content is None:
        return replace(want, content=block)
    text = have.content if have.content.endswith("\n") or not have.content else have.content + "\n"
    start, end = text.find(_BEGIN), text.find(_END)
    whole = text[:start] + block + text[end + len(_END) :] if 0 <= start < end else text + block
    return replace(want, content=whole, mode=have.mode, owner=have.owner, group=have.group)


def _same_content(have: FoundFile, want: WantedFile) -> bool:
    if have.content is None:
        return False
    return have.content.strip() == want.content.strip() if want.in_place else have.content == want.content


def _access(file: Any) -> str:
    return f"{file.owner}:{file.group} {file.mode:04o}"


def apply(step: Step) -> None:
    """Take one step.

    :raises StackError: when the system refuses it.
    """
    want: WantedFile = step.data
    try:
        if want.in_place:
            Path(want.path).write_text(want.content, encoding="utf-8")
        elif step.action == "write":
            _replace(want)
        else:
            _protect(Path(want.path), want)
    except (OSError, KeyError) as error:
        raise StackError(f"{want.path}: {error}. Check that its folder is writable and that {want.owner} and {want.group} exist") from error


def _replace(want: WantedFile) -> None:
    """Write beside the file and move over it: readers see the old content or the new one."""
    target = Path(want.path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".llm-stack.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(want.content)
            file.flush()
            os.fsync(file.fileno())
        if want.validate:
            Runner().run([name if word == _CANDIDATE else word for word in want.validate])
        _protect(temporary, want)
        temporary.replace(target)
    except BaseException:
        temporary.unlink()
        raise


def _protect(path: Path, want: WantedFile) -> None:
    os.chown(path, pwd.getpwnam(want.owner).pw_uid, grp.getgrnam(want.group).gr_gid)
    path.chmod(want.mode)
