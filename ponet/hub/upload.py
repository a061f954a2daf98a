"""Folders to repositories of the Hugging Face Hub."""

from pathlib import Path

from ponet.weight_files import CONFIG_NAME


def has_model(repo: str) -> bool:
    """Return whether the main branch of a repository on the Hub holds a model."""
    from huggingface_hub import HfApi

    return bool(HfApi().file_exists(repo, CONFIG_NAME))


def push(folder: Path, repo: str, *, private: bool, branch: str = "") -> str:
    """Upload a folder to the Hugging Face Hub and return the commit's address.

    Args:
        folder: What to upload.
        repo: owner/name; made if it is not there.
        private: Whether a repository that is made is private; an existing one stays as it is.
        branch: Made if it is not there; empty: main.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    if branch:
        api.create_branch(repo, branch=branch, exist_ok=True)
    where = {"revision": branch} if branch else {}
    commit = api.upload_folder(repo_id=repo, folder_path=str(folder), **where)
    return str(commit)
