# The image that deploy/rayjob.yaml runs: Ray, the project, and torch with CUDA. Build it in the project's folder:
#
#   docker build --tag registry.example.com/magihuman-ray:0.1.0 .
#
# A plain Python image is enough: torch's wheels bring CUDA 13 along, and the driver (580 or newer) is the node's.
FROM python:3.12-slim-trixie

# Networks are compiled on the GPU nodes, for which a C compiler is needed; Python's headers are in the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# NVIDIA's container runtime gives a container the parts of the driver named here; with `video` NVENC, where a card has it.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PYTHONUNBUFFERED=1

WORKDIR /build

# Dependencies are gigabytes and seldom change, the project is small and often does: a layer each, from one list.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["gpu"], *extras["synthesis"], *extras["c2pa"], sep="\n")' > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

COPY . .
RUN pip install --no-cache-dir --no-deps .

RUN useradd --create-home --uid 1000 ray
USER 1000
WORKDIR /home/ray
CMD ["python", "-m", "jobs.generate", "--help"]
