"""Models as files and on the hub, by the names that huggingface_hub's PyTorchModelHubMixin has made usual."""

import tempfile
from pathlib import Path
from typing import Any, TypeVar

from nextpixel.errors import InputError, shown
from nextpixel.hub import push, read_folder

MESSAGE = "Push model using nextpixel"
Own = TypeVar("Own", bound="Pretrained")


class Pretrained:
    """What every model can do with a folder and a repository; the format is `nextpixel.models.storage`'s."""

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and a model card to a folder that `nextpixel.load` reads."""
        from nextpixel.models.storage import save

        save(self, folder)

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **push_to_hub_kwargs: Any
    ) -> str | None:
        """The same as `save`, under the usual name; with `push_to_hub`, the URL of the commit.

        Args:
            save_directory: the folder.
            repo_id: owner/name; by default the name of the folder, of yours.
            push_to_hub: whether to put the model there as well.
            push_to_hub_kwargs: further arguments of the method `push_to_hub`.

        Raises:
            InputError: the folder cannot be written; or as `push_to_hub`.

        Example:
            >>> import nextpixel
            >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1)
            >>> model.save_pretrained("tiny")
            >>> nextpixel.PixelCNN.from_pretrained("tiny").features
            4
        """
        self.save(save_directory)
        return self.push_to_hub(repo_id or Path(save_directory).name, **push_to_hub_kwargs) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = MESSAGE,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Put the model into a repository of the hub, in one commit, and give its URL.

        Args:
            repo_id: owner/name; it is made where there is none.
            commit_message: of the commit.
            private: whether a new repository is private; by default as your account has it.
            token: by default HF_TOKEN, or what `hf auth login` has stored.
            branch: by default main; it is made where there is none.
            create_pr: open a pull request instead.

        Raises:
            InputError: a wrong token or none, no right to write there, no network.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder, "model"))
            return push(read_folder(Path(folder, "model")), repo_id, commit_message, private, branch, token, create_pr)

    @classmethod
    def from_pretrained(
        cls: type[Own],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Own:
        """A model of this class, in eval mode, as `nextpixel.load` reads it, from a folder, a run or the hub.

        Args:
            pretrained_model_name_or_path: a folder, or owner/name.
            revision: a branch, a tag or a commit of the hub.
            token, cache_dir, force_download, local_files_only: as in huggingface_hub.

        Raises:
            InputError: as `nextpixel.load`; or the model is of another class.
        """
        from nextpixel.models.storage import load

        hub = {"token": token, "cache_dir": cache_dir, "force_download": force_download, "local_files_only": local_files_only}
        model = load(pretrained_model_name_or_path, revision, **hub)
        if not isinstance(model, cls):
            what = f"{shown(pretrained_model_name_or_path)} is a {type(model).__name__}"
            raise InputError(f"{what}, not a {cls.__name__}: {type(model).__name__}.from_pretrained or nextpixel.load reads it")
        return model
