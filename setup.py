"""What pyproject.toml cannot say: configs/ lies beside the package and is installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["regnet_backbones*"]), "regnet_backbones.configs"],
    package_dir={"regnet_backbones.configs": "configs"},
    package_data={
        "regnet_backbones.configs": ["**/*.yaml", "**/*.py"],
        "regnet_backbones": ["py.typed", "*.json"],
        "regnet_backbones.report": ["*.j2"],
    },
)
