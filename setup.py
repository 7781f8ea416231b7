"""What pyproject.toml cannot say: a wheel carries files that lie outside the package in the repository.

`lorcbench.common.shipped` finds them. An editable install copies nothing: there they are read where they lie.
"""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = runpy.run_path(str(ROOT / "src/lorcbench/common/shipped.py"))  # which imports nothing that Python does not bring


class BuildWithTree(build_py):
    """Copy conf/, Snakefile, workflow/ and profiles/ into the package of a wheel."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, target in self._shipped().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_output_mapping(self) -> dict[str, str]:
        """Files of the wheel → where they come from."""
        shipped = {} if self.editable_mode else self._shipped()
        return super().get_output_mapping() | {target: source for source, target in shipped.items()}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files of the wheel."""
        return super().get_outputs(include_bytecode) + ([] if self.editable_mode else list(self._shipped().values()))

    def _shipped(self) -> dict[str, str]:
        """Files of the repository → where they go in the build."""
        folder = Path(self.build_lib) / "lorcbench" / SHIPPED["FOLDER"]
        parts = [ROOT / part for part in SHIPPED["PARTS"]]
        files = [file for part in parts for file in [part, *sorted(part.rglob("*"))] if file.is_file()]
        return {str(file): str(folder / file.relative_to(ROOT)) for file in files}


setup(cmdclass={"build_py": BuildWithTree})
