"""Who may import whom: scripts -> roof -> {optimizers, analysis} -> landscape; and nothing heavy on import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOF = {
    "study",
    "stages",
    "geometry",
    "connecting",
    "commands",
    "cli",
}  # the modules of landscape that may import its siblings
SIBLINGS = {"optimizers", "analysis"}
PACKAGES = SIBLINGS | {"landscape"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Absolute names of what a module imports, its own package's relative ones resolved."""
    names = set()
    inside = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("package", sorted(SIBLINGS))
def test_siblings_import_only_landscape_and_never_its_roof(package):
    other = SIBLINGS - {package}
    for path in modules(package):
        assert not tops(path) & (other | {"scripts"}), path
        assert not {f"landscape.{roof}" for roof in ROOF} & imported(path), path


def test_only_the_roof_imports_the_siblings_and_nothing_imports_the_roof():
    roof = {f"landscape.{name}" for name in ROOF}
    for path in modules("landscape"):
        on_the_roof = path.relative_to(ROOT / "landscape").with_suffix("").parts[0] in ROOF
        if not on_the_roof:
            assert not tops(path) & (SIBLINGS | {"scripts"}), path
        if not on_the_roof and path.name != "__init__.py":  # __init__ reaches compare when it is asked for
            assert not roof & imported(path), path


def test_package_inits_only_re_export():
    for package in SIBLINGS:
        for node in ast.parse((ROOT / package / "__init__.py").read_text()).body:
            assert isinstance(node, ast.ImportFrom | ast.Expr), ast.dump(node)
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1
                assert all(alias.asname == alias.name for alias in node.names)


def test_importing_the_packages_loads_nothing_heavy():
    code = (
        "import sys, landscape, optimizers, analysis\n"
        "heavy = {'matplotlib', 'plotly', 'sklearn', 'jsonargparse', 'jinja2', 'rich', 'joblib'} & set(sys.modules)\n"
        "heavy |= {m for m in sys.modules if m in ('landscape.study', 'landscape.stages')}\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_names_that_others_rely_on():
    import analysis
    import landscape
    import landscape.potentials
    import optimizers

    promised = {
        landscape: "Objective model_objective Problem load_problem Solution load scan Line Plane compare InputError",
        landscape.potentials: "muller_brown four_well curvy_valley two_wells ring lennard_jones",
        optimizers: "E ALTO LBFGS SAM SmoothedPerturbation SharpnessAwarePerturbation CLR fit",
        analysis: "hessian_trace top_eigenpairs flatness kernel_pca find_path linear_path corridor "
        "minima_network network_of align refine_pass",
    }
    for module, names in promised.items():
        for name in names.split():
            assert callable(getattr(module, name)), f"{module.__name__}.{name}"


def test_scripts_are_short():
    for path in modules("scripts"):
        assert len(path.read_text().splitlines()) <= 100, path
