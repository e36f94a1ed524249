"""Builds the kernels of csrc/ into zsml/_C (CPU) and zsml/_C_cuda (CUDA); everything else is in pyproject.toml.

ZSML_BUILD=auto|cpu|cuda|none  what to build. auto (default): what this machine can, the rest skipped with its reason.
TORCH_CUDA_ARCH_LIST           CUDA targets, e.g. "8.0;9.0+PTX" (default: DEFAULT_CUDA_TARGETS below).
MAX_JOBS                       parallel compilations.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

DEFAULT_CUDA_TARGETS = "8.0;8.6;8.9;9.0+PTX"
ROOT = Path(__file__).resolve().parent
MODE = os.environ.get("ZSML_BUILD", "auto")
# The oldest torch whose stable ABI we use: one binary then serves every later torch.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
CXX_FLAGS = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", TORCH_TARGET]
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler=-fvisibility=hidden", "-Xptxas=-v", TORCH_TARGET, "-DUSE_CUDA"]

if MODE not in ("auto", "cpu", "cuda", "none"):
    sys.exit(f"zsml: ZSML_BUILD={MODE!r} is not known; use auto, cpu, cuda or none")


def cuda_home():
    """The toolkit nvcc really lives in: a wrapper script on PATH misleads a look at its folder, so nvcc is asked."""
    nvcc = shutil.which("nvcc")
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    if nvcc:
        asked = subprocess.run([nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True)
        top = re.search(r"TOP=(\S+)", asked.stderr + asked.stdout)
        if top:
            return str(Path(top.group(1)).resolve())
    return "/usr/local/cuda" if Path("/usr/local/cuda/bin/nvcc").exists() else None


def sources(folder, ending):
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc" / folder).glob(f"*{ending}"))]


def headers():
    return [
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*.h*")) + sorted((ROOT / "csrc").rglob("*.cuh"))
    ]


def plan():
    """Which extensions to build, and for each one left out the reason."""
    extensions, skipped = [], {}
    if MODE == "none":
        return extensions, {"cpu": "ZSML_BUILD=none", "cuda": "ZSML_BUILD=none"}
    compiler = os.environ.get("CXX", "c++").split()[0]
    if not shutil.which(compiler):
        return extensions, {"cpu": f"no C++ compiler ({compiler} not found)", "cuda": "no C++ compiler"}
    home = cuda_home()
    if home:
        os.environ["CUDA_HOME"] = home  # read by torch.utils.cpp_extension when it is imported
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        if MODE == "auto":
            return extensions, {"cpu": "torch is not installed here", "cuda": "torch is not installed here"}
        sys.exit("zsml: building needs torch first: pip install torch, then pip install --no-build-isolation zsml")

    common = {"include_dirs": cpp_extension.include_paths(), "depends": headers(), "py_limited_api": True}
    torch_libraries = ["c10", "torch", "torch_cpu"]
    torch_folders = cpp_extension.library_paths()
    extensions.append(
        Extension(
            "zsml._C",
            sources("cpu", ".cpp"),
            libraries=torch_libraries,
            library_dirs=torch_folders,
            extra_compile_args={"cxx": CXX_FLAGS},
            language="c++",
            **common,
        )
    )
    if MODE == "cpu":
        skipped["cuda"] = "ZSML_BUILD=cpu"
    elif torch.version.cuda is None:
        skipped["cuda"] = "this torch is a CPU-only build"
    elif not home or not Path(home, "bin", "nvcc").exists():
        skipped["cuda"] = "nvcc not found (set CUDA_HOME to the CUDA toolkit)"
    else:
        release = re.search(
            r"release (\d+)\.", subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True).stdout
        )
        if release and release.group(1) != torch.version.cuda.split(".")[0]:
            skipped["cuda"] = f"nvcc is CUDA {release.group(1)}, torch was built with CUDA {torch.version.cuda}"
        else:
            targets = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_TARGETS)
            extensions.append(
                Extension(
                    "zsml._C_cuda",
                    sources("cuda", ".cu"),
                    # The runtime is linked statically, so that the binary does not care which CUDA wheels torch brought.
                    libraries=[*torch_libraries, "torch_cuda", "cudart_static", "rt", "dl", "pthread"],
                    library_dirs=[*torch_folders, f"{home}/lib64"],
                    extra_compile_args={"cxx": CXX_FLAGS, "nvcc": [*NVCC_FLAGS, f'-DZSML_CUDA_TARGETS="{targets}"']},
                    language="c++",
                    **{**common, "include_dirs": cpp_extension.include_paths("cuda")},
                )
            )
    if MODE == "cuda" and "cuda" in skipped:
        sys.exit(f"zsml: ZSML_BUILD=cuda was asked for but cannot be done: {skipped['cuda']}")
    return extensions, skipped


def report(built, skipped):
    """One line: what was built, for what, and why not the rest."""
    parts = []
    for tier, name in (("cpu", "zsml._C"), ("cuda", "zsml._C_cuda")):
        if name in built:
            parts.append(
                "cpu kernels built (portable, avx2, avx512, avx512_vpopcnt)"
                if tier == "cpu"
                else f"cuda kernels built for {os.environ['TORCH_CUDA_ARCH_LIST']}"
            )
        else:
            parts.append(f"{tier} kernels not built: {skipped.get(tier, 'unknown reason')}")
    line = "zsml: " + "; ".join(parts)
    print(line)
    if not os.environ.get("ZSML_QUIET_BUILD"):
        print(line, file=sys.stderr)


def build_commands(skipped):
    """The build command of torch, made to leave out in auto mode what does not compile, saying so."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def build_extensions(self):
            built = []
            for extension in list(self.extensions):
                self.extensions = [extension]
                try:
                    super().build_extensions()
                    built.append(extension.name)
                except Exception as error:
                    if MODE != "auto":
                        raise
                    tier = "cuda" if extension.name.endswith("_cuda") else "cpu"
                    skipped[tier] = f"compilation failed ({str(error).splitlines()[0][:200]})"
            # Only what exists may be copied into place afterwards.
            self.extensions = [e for e in EXTENSIONS if e.name in built]
            report(built, skipped)

    return {"build_ext": Build}


EXTENSIONS, SKIPPED = plan()
if not EXTENSIONS:
    report([], SKIPPED)
setup(
    ext_modules=EXTENSIONS,
    cmdclass=build_commands(SKIPPED) if EXTENSIONS else {},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if EXTENSIONS else {},
)
