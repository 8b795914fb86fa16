"""Requests about images, mounts, blobs, secrets and Volumes."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.modal.emulator.apps import BUILDER_VERSION
from tests.modal.emulator.cloud import Cloud, LogLine, Secret, Volume, digest
from tests.modal.emulator.mounts import FullError, OpenFilesError
from tests.modal.emulator.rpc import Service, rpc, rpc_stream

_SUCCESS = pb.GenericResult.GENERIC_STATUS_SUCCESS
_FAILURE = pb.GenericResult.GENERIC_STATUS_FAILURE
_STDOUT = pb.FILE_DESCRIPTOR_STDOUT
_BUILDS = "ap-images"
"""The app under which the logs of builds of images are kept."""
_BUILD_SECONDS = 600
_BLOCK = 8 * 1024 * 1024


class Objects(Service):
    """What functions are made of, and what they read and write."""

    @rpc
    async def ImageGetOrCreate(self, request: Any) -> Any:
        name = f"{digest(request.image)}{request.builder_version}"
        known = self.cloud.image_ids.get(name)
        if known is not None and not request.force_build:
            result = pb.GenericResult(status=_SUCCESS)
            return pb.ImageGetOrCreateResponse(
                image_id=known, result=result, metadata=_image_metadata()
            )
        image_id = f"im-{hashlib.sha256(name.encode()).hexdigest()[:22]}"
        self.cloud.images[image_id] = request.image
        if not self._breaks(request.image):
            self.cloud.image_ids[name] = image_id
        return pb.ImageGetOrCreateResponse(image_id=image_id)

    @rpc_stream
    async def ImageJoinStreaming(self, request: Any) -> AsyncIterator[Any]:
        image = self.cloud.images[request.image_id]
        for line in image.dockerfile_commands:
            yield pb.ImageJoinStreamingResponse(task_logs=[_said(f"=> {line}\n")])
        if self._breaks(image):
            line = "ERROR: No matching distribution found\n"
            now = time.time()
            number = len(self.cloud.logs)
            where = (_BUILDS, "", request.image_id, "")
            self.cloud.logs.append(LogLine(number, *where, now, now, line, _STDOUT))
            yield pb.ImageJoinStreamingResponse(task_logs=[_said(line)])
            result = pb.GenericResult(status=_FAILURE, exception="exit code 100")
            yield pb.ImageJoinStreamingResponse(result=result, eof=True)
            return
        result = pb.GenericResult(status=_SUCCESS)
        yield pb.ImageJoinStreamingResponse(
            result=result, metadata=_image_metadata(), eof=True
        )

    @rpc
    async def ImageBuildChainGet(self, request: Any) -> Any:
        response = pb.ImageBuildChainGetResponse()
        step = response.build_steps.add(
            builder_app_id=_BUILDS, builder_task_id=request.image_id
        )
        step.started_at.FromSeconds(int(time.time()) - _BUILD_SECONDS)
        step.finished_at.FromSeconds(int(time.time()) + 1)
        return response

    @rpc
    async def MountGetOrCreate(self, request: Any) -> Any:
        if request.deployment_name:  # of the client itself, and of its Python
            mount_id = f"mo-{request.deployment_name}"
        else:
            files = sorted((f.filename, f.sha256_hex, f.mode) for f in request.files)
            name = hashlib.sha256(repr(files).encode()).hexdigest()
            mount_id = f"mo-{name[:22]}"
            self.cloud.mounts[mount_id] = list(request.files)
        checksum = hashlib.sha256(mount_id.encode()).hexdigest()
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    @rpc
    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        asked = request.sha256_hex_hashes
        missing = [name for name in asked if name not in self.cloud.files]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @rpc
    async def MountPutFile(self, request: Any) -> Any:
        name = request.sha256_hex
        if request.WhichOneof("data_oneof") == "data_blob_id":
            self.cloud.files[name] = self.cloud.blobs[request.data_blob_id]
        elif request.HasField("data"):
            self.cloud.files[name] = request.data
        return pb.MountPutFileResponse(exists=name in self.cloud.files)

    @rpc
    async def BlobCreate(self, _request: Any) -> Any:
        blob_id = self.cloud.new("bl")
        url = f"{self.cloud.files_url}/blob/{blob_id}"
        urls = pb.UploadUrlList(items=[url])
        return pb.BlobCreateResponse(
            blob_id=blob_id, blob_ids=[blob_id], upload_urls=urls, upload_url=url
        )

    @rpc
    async def BlobGet(self, request: Any) -> Any:
        url = f"{self.cloud.files_url}/blob/{request.blob_id}"
        return pb.BlobGetResponse(download_url=url)

    @rpc
    async def SecretGetOrCreate(self, request: Any) -> Any:
        name, kind = request.deployment_name, request.object_creation_type
        secret_id = self.cloud.secret(name)
        if secret_id is None:
            if name and kind == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found")
            secret_id = self.cloud.new("st")
            self.cloud.secrets[secret_id] = Secret(name, dict(request.env_dict))
        elif kind == pb.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{name}' already exists")
        secret = self.cloud.secrets[secret_id]
        if request.env_dict:
            secret.values = dict(request.env_dict)
        missing = [key for key in request.required_keys if key not in secret.values]
        if missing:
            raise GRPCError(
                Status.FAILED_PRECONDITION,
                f"Secret '{name}' is missing required key(s): {', '.join(missing)}",
            )
        metadata = pb.SecretMetadata(name=secret.name)
        return pb.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)

    @rpc
    async def SecretList(self, _request: Any) -> Any:
        items = [
            pb.SecretListItem(label=secret.name, secret_id=secret_id)
            for secret_id, secret in self.cloud.secrets.items()
            if secret.name
        ]
        return pb.SecretListResponse(items=items)

    @rpc
    async def VolumeGetOrCreate(self, request: Any) -> Any:
        name = request.deployment_name
        volume_id = self.cloud.volume(name)
        if volume_id is None:
            folder = self.cloud.folder / "volumes" / name
            wanted = request.object_creation_type != pb.OBJECT_CREATION_TYPE_UNSPECIFIED
            if not wanted and not folder.exists():  # a test may have made it
                raise GRPCError(Status.NOT_FOUND, f"Volume '{name}' not found")
            volume_id = self.cloud.new("vo")
            folder.mkdir(parents=True, exist_ok=True)
            version = request.version or pb.VOLUME_FS_VERSION_V1
            described = pb.VolumeMetadata(name=name, version=version)
            self.cloud.volumes[volume_id] = Volume(folder, described)
        metadata = self.cloud.volumes[volume_id].metadata
        return pb.VolumeGetOrCreateResponse(
            volume_id=volume_id, version=metadata.version, metadata=metadata
        )

    @rpc
    async def VolumeList(self, _request: Any) -> Any:
        items = [
            pb.VolumeListItem(
                label=volume.metadata.name,
                volume_id=volume_id,
                metadata=volume.metadata,
            )
            for volume_id, volume in self.cloud.volumes.items()
        ]
        return pb.VolumeListResponse(items=items)

    @rpc
    async def VolumeCommit(self, request: Any) -> Any:
        view = self.asking().views[request.volume_id]
        most = self.cloud.faults.volume_files
        try:
            await asyncio.to_thread(view.commit, most)
        except FullError:
            raise _too_many(most) from None
        return pb.VolumeCommitResponse(skip_reload=True)

    @rpc
    async def VolumeReload(self, request: Any) -> Any:
        container = self.asking()
        view, most = container.views[request.volume_id], self.cloud.faults.volume_files
        try:
            await asyncio.to_thread(view.reload, container.processes(), most)
        except OpenFilesError:
            raise GRPCError(
                Status.FAILED_PRECONDITION,
                "there are open files preventing the operation",
            ) from None

    @rpc_stream
    async def VolumeListFiles(self, request: Any) -> AsyncIterator[Any]:
        folder, path = self._path(request.volume_id, request.path)
        if not path.exists():
            raise GRPCError(Status.NOT_FOUND, f"no such file or directory: {path.name}")
        if path.is_file():
            found = [path]
        else:
            found = sorted(path.rglob("*") if request.recursive else path.iterdir())
        entries = [_entry(each, folder) for each in found]
        yield pb.VolumeListFilesResponse(entries=entries)

    @rpc
    async def VolumePutFiles(self, request: Any) -> Any:
        folder, _ = self._path(request.volume_id, "")
        most, known = self.cloud.faults.volume_files, sum(1 for _ in folder.rglob("*"))
        for file in request.files:
            _, path = self._path(request.volume_id, file.filename)
            if path.exists() and request.disallow_overwrite_existing_files:
                raise GRPCError(
                    Status.ALREADY_EXISTS, f"{file.filename}: already exists"
                )
            known += not path.exists()
            if known > most:
                raise _too_many(most)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.cloud.files[file.sha256_hex])

    @rpc
    async def VolumeGetFile2(self, request: Any) -> Any:
        folder, path = self._path(request.volume_id, request.path)
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"no such file: {request.path}")
        size = path.stat().st_size
        place = f"{self.cloud.files_url}/volume/{request.volume_id}"
        query = f"path={path.relative_to(folder)}"
        urls = [f"{place}?{query}&start={at}" for at in range(0, size, _BLOCK)]
        return pb.VolumeGetFile2Response(size=size, start=0, len=size, get_urls=urls)

    @rpc
    async def VolumeRemoveFile(self, request: Any) -> Any:
        _, path = self._path(request.volume_id, request.path)
        if not path.exists():
            raise GRPCError(Status.NOT_FOUND, f"no such file: {request.path}")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _path(self, volume_id: str, path: str) -> tuple[Path, Path]:
        folder = self.cloud.volumes[volume_id].folder.resolve()
        found = (folder / path.lstrip("/")).resolve()
        if not found.is_relative_to(folder):
            raise GRPCError(Status.INVALID_ARGUMENT, f"`{path}` is not on the Volume")
        return folder, found

    def _breaks(self, image: Any) -> bool:
        broken = self.cloud.faults.failed_layer
        return bool(broken) and any(broken in x for x in image.dockerfile_commands)


def routes(cloud: Cloud) -> list[web.RouteDef]:
    """Where the client puts and gets what is too large for a request."""

    async def put(request: web.Request) -> web.Response:
        content = await request.read()
        cloud.blobs[request.match_info["blob"]] = content
        tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return web.Response(headers={"ETag": tag})

    async def get(request: web.Request) -> web.Response:
        return web.Response(body=cloud.blobs[request.match_info["blob"]])

    async def block(request: web.Request) -> web.Response:
        folder = cloud.volumes[request.match_info["volume"]].folder
        with (folder / request.query["path"]).open("rb") as stream:
            stream.seek(int(request.query["start"]))
            return web.Response(body=stream.read(_BLOCK))

    return [
        web.put("/blob/{blob}", put),
        web.get("/blob/{blob}", get),
        web.get("/volume/{volume}", block),
    ]


def _too_many(most: int) -> GRPCError:
    return GRPCError(
        Status.RESOURCE_EXHAUSTED, f"the Volume has no room for more than {most} files"
    )


def _entry(path: Path, folder: Path) -> pb.FileEntry:
    status = path.stat()
    kind = pb.FileEntry.DIRECTORY if path.is_dir() else pb.FileEntry.FILE
    return pb.FileEntry(
        path=str(path.relative_to(folder)),
        type=kind,
        size=status.st_size,
        mtime=int(status.st_mtime),
    )


def _image_metadata() -> pb.ImageMetadata:
    return pb.ImageMetadata(
        python_version_info="3.11",
        image_builder_version=BUILDER_VERSION,
        workdir="/root",
        libc_version_info="2.36",
    )


def _said(line: str) -> pb.TaskLogs:
    return pb.TaskLogs(data=line, timestamp=time.time(), file_descriptor=_STDOUT)
