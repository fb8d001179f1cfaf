# SPDX-License-Identifier: GPL-3.0-or-later
"""Module htpasswd with other versions of packages, which pip downloads."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from importlib import metadata

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd


@pytest.mark.parametrize("packages", [["passlib==1.7.4"], ["passlib==1.7.4", "libpass==1.9.4"]])
def test_bcrypt_5_beside_passlib(tmp_path: pathlib.Path, packages: list[str]) -> None:
    """passlib 1.7.4 fails with bcrypt 5, so the module must not use them together. Other packages of this environment are hidden."""
    folder = tmp_path / "packages"
    for package in packages:
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "--upgrade", package]
        subprocess.run(argv, check=True)
    assert metadata.version("bcrypt").startswith("5.")
    script = f"""
import importlib.util, sys
sys.path[:] = [{str(folder)!r}, {str(tmp_path / "bcrypt")!r}, *(one for one in sys.path if "site-packages" not in one)]
spec = importlib.util.spec_from_file_location("_htpasswd", {htpasswd.__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules["_htpasswd"] = module
spec.loader.exec_module(module)
text, _ = module.apply("", [module.User("nodes", "x" * 72)], 4, False)
assert module.apply(text, [module.User("nodes", "x" * 72)], 4, False) == (text, {{}})
print(module.missing(["bcrypt"]), module.missing(["apr_md5_crypt"]), module.clashes(["bcrypt"]), module.clashes(["apr_md5_crypt"]))
"""
    (tmp_path / "bcrypt").mkdir()
    (tmp_path / "bcrypt" / "bcrypt").symlink_to(pathlib.Path(htpasswd.bcrypt.__file__).parent)
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said == f"None None False {len(packages) == 2}\n"
