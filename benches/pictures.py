"""How alike two contestants' pictures are."""
import numpy as np
from PIL import Image


def psnr(a, b):
    """Peak signal-to-noise ratio of two picture files in dB; infinite where they are equal."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (a, b))
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def compare(ours, theirs):
    """Smallest and median PSNR over the pictures of two folders, as `pictures()` lists them."""
    if ours.keys() != theirs.keys():
        return None
    values = [psnr(ours[name], theirs[name]) for name in ours]
    return {"least": min(values), "median": float(np.median(values)), "pictures": len(values)}


def contrast(listed):
    """The least standard deviation of any picture: agreement on gray would prove nothing."""
    return min(float(np.asarray(Image.open(path).convert("RGB"), np.float64).std()) for path in listed.values())


def same_bytes(ours, theirs):
    """Whether two folders hold the same files, byte for byte."""
    return ours.keys() == theirs.keys() and all(ours[name].read_bytes() == theirs[name].read_bytes() for name in ours)
