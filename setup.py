"""What pyproject.toml cannot say: configs and tutorials go into the package when it is built.

They keep their places in the sources, where `hybrid init` finds them without building anything.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
STARTER = {
    "configs": ("configs", ["*.yaml", "*.txt"]),
    "tutorial": ("experiments/tutorial", ["*.py", "*.yaml"]),
}
"""Folder below hybrid/starter: its source and what is taken of it."""


class BuildWithStarter(build_py):
    """As always, and `hybrid/starter` beside the modules; an editable install has the sources."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        for target, source in self._starter().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """Also those that a source distribution needs for this."""
        return [*super().get_source_files(), *self._starter(always=True).values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Also the copies."""
        return [*super().get_outputs(include_bytecode), *self._starter()]

    def _starter(self, *, always: bool = False) -> dict[str, str]:
        """Source by target."""
        if self.editable_mode and not always:
            return {}
        found = {}
        for name, (folder, patterns) in STARTER.items():
            for path in sorted(p for pattern in patterns for p in (ROOT / folder).glob(pattern)):
                target = Path(self.build_lib or "", "hybrid", "starter", name, path.name)
                found[str(target)] = str(path.relative_to(ROOT))
        return found


setup(cmdclass={"build_py": BuildWithStarter})
