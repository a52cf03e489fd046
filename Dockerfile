# docker build --tag 2m-ner . && docker run --publish 8000:8000 2m-ner
FROM python:3.11-slim
WORKDIR /app
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY *.py ./
COPY dataset_script dataset_script
COPY mmner mmner
COPY recipes recipes
COPY posts posts
COPY models/2m-ner-small models/2m-ner-small
# PyTorch for CPUs; the pinned version is the same. Editable: the bundled model lies beside the package.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint constraints.txt --editable '.[serve]'
RUN useradd --create-home server
USER server
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD ["mmner", "serve", "--host", "0.0.0.0", "--port", "8000"]
