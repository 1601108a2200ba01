"""What huggingface_hub finds of a model in its cache, offline: NAME [REVISION] → JSON of commit, refs and the files' SHA-256.

    HF_HOME=FOLDER HF_HUB_OFFLINE=1 python3 test/tools/check_hub.py openai/clip-tiny
"""
import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import scan_cache_dir, snapshot_download

name, revision = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "main"
folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
cache = scan_cache_dir()
repository = next(each for each in cache.repos if each.repo_id == name)
commit = next(each for each in repository.revisions if each.snapshot_path == folder.resolve() or each.snapshot_path == folder)
print(json.dumps({
    "warnings": [str(each) for each in cache.warnings],
    "commit": commit.commit_hash,
    "refs": sorted(commit.refs),
    "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
}))
