"""What goes wrong around a llama-server: downloads, the machine, snapshots, Modal.

The texts are from the programs named beside them; those of Modal are as others have
published them.
"""

from typing import Final

from deployer.core.notices import Severity
from deployer.llama.symptom import Symptom

HOSTS: Final = (
    Symptom(
        "no-fast-download",
        r"'hf_xet' package is not installed"  # huggingface_hub
        r"|'hf_transfer' package is not available",
        "the fast download of the hub is not installed: fetching is slow, or fails",
        "`pip install 'deployer[hub]'`; unset `HF_HUB_ENABLE_HF_TRANSFER`",
        Severity.WARNING,
    ),
    Symptom(
        "gated-model",
        r"Access to model (\S+) is restricted|GatedRepoError",  # huggingface_hub
        "the repository of the model asks for a licence to be accepted",
        "accept it on the model's page, and set `HF_TOKEN`",
    ),
    Symptom(
        "disk-full",
        r"No space left on device|Errno 28",  # libc, Python
        "the disk is full",
        "`deployer store gc` removes what no release needs; `DEPLOYER_HOME` moves the"
        " store",
    ),
    Symptom(
        "killed-for-memory",
        # kernel; Modal
        r"Out of memory: Killed process \d+ \((\S+?)\)|oom-kill:.*task=\S+?,"
        r"|Runner (?:terminated|was killed).*(?:memory|OOM)|[Cc]ontainer.* OOM",
        "the kernel killed a process because the host ran out of memory",
        "weights, KV cache and GPU memory pass through host memory at a capture: raise"
        " `modal.memory`, lower `server.cache_ram` and `server.ctx_checkpoints`",
        hides=("out-of-memory",),
    ),
    Symptom(
        "restore-9p",
        r"filesystem type \"9p\": failed to walk \"([^\"]*)\"",  # Modal (gVisor)
        "a restore failed: `\\1` was open at the snapshot and is gone from the Volume",
        "keep nothing of the engine on a Volume at the snapshot: `server.mmap: false`;"
        " never delete or overwrite a path that a live release used",
        hides=("restore-modal",),
    ),
    Symptom(
        "restore-modal",
        r"restoring container: failed|Runner failed with exit code: 128",  # Modal
        "Modal could not restore the snapshot; the container starts cold",
        "deploy again to take new snapshots, and send two or three cold requests"
        " (`snapshot.prime`)",
    ),
    Symptom(
        "snapshot-ephemeral",
        r"[Mm]emory snapshots are (?:disabled|not supported) for ephemeral",  # Modal
        "`modal run` and `modal serve` take no snapshots",
        "deploy it: `deployer apply`",
    ),
    Symptom(
        "snapshot-many-gpus",
        r"GPU memory snapshots are not supported for Functions with more than one GPU",
        "the memory of several GPUs cannot be captured",  # Modal
        "name one GPU, or set `snapshot.gpu: false`",
    ),
    Symptom(
        "snapshot-too-long",
        r"Runner heartbeat timeout: (\d+) seconds",  # Modal
        "the start that takes the snapshot ran into Modal's wall of \\1 s",
        "smaller weights, or `snapshot.gpu: false`; `startup_timeout` does not lift it",
    ),
    Symptom(
        "modal-redirect",
        r"modal-http: bad redirect method",  # Modal
        "a client posted again where Modal's 303 after 150 s wants a GET (400)",
        "let the client follow a 303 with GET, or keep a container warm:"
        " `scaling.min_containers: 1`",
    ),
    Symptom(
        "modal-no-token",
        r"Token missing\. Could not authenticate client|modal token (?:new|set)",
        "there is no Modal token",  # modal
        "`modal token new`, or set `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET`",
    ),
    Symptom(
        "gateway-timeout",
        r"\b524\b.{0,40}[Tt]imeout|HTTP 524|504 Gateway Time-?out",  # Cloudflare, nginx
        "a proxy in front gave up before the server answered",
        "raise its time-out above the slowest start, or keep a container warm",
        Severity.WARNING,
    ),
    Symptom(
        "restore-criu-file",
        r"Error \(criu/files-reg\.c:\d+\): File (\S+) has bad (?:size|mode|build-id)",
        "a restore failed: `\\1` is not the file it was at the capture",  # CRIU
        "`deployer apply` takes the snapshot anew",
        hides=("restore-criu",),
    ),
    Symptom(
        "restore-criu-port",
        r"Error \(criu/sk-inet\.c:\d+\): inet: Can't bind inet socket",  # CRIU
        "a restore failed: something else has the port of the server",
        "end it, or set `local.port`",
        hides=("restore-criu",),
    ),
    Symptom(
        "restore-criu-pid",
        r"Error \(criu/cr-restore\.c:\d+\): Can't fork for (\d+): File exists"
        r"|Pid \d+ do not match expected",  # CRIU
        "a restore failed: the process number of the capture is taken",
        "end that process, or let `deployer apply` take the snapshot anew",
        hides=("restore-criu",),
    ),
    Symptom(
        "restore-criu-cpu",
        r"Error \(criu/cpu\.c:\d+\)|compel/arch/.*: CPU .*(?:missing|mismatch)",  # CRIU
        "a restore failed: the processor lacks what that of the capture had",
        "take the snapshot on this kind of machine: `deployer apply`",
        hides=("restore-criu",),
    ),
    Symptom(
        "restore-criu",
        r"Error \(criu/cr-restore\.c:\d+\): Restoring FAILED",  # CRIU
        "CRIU could not restore the server",
        "the lines above it say why; `deployer apply` takes the snapshot anew",
    ),
    Symptom(
        "capture-criu",
        r"Error \(criu/cr-dump\.c:\d+\): Dumping FAILED",  # CRIU
        "CRIU could not capture the server",
        "the lines above it say why; CRIU 4.2 or newer as root is needed",
    ),
)
