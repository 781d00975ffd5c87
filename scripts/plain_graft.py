"""The reference that bench_io.py times: a graft as one writes it with gguf-py alone. No checks, no undo, no proof."""

from __future__ import annotations

import sys

from gguf import GGUFReader, GGUFValueType, GGUFWriter


def main(base_path: str, donor_path: str, out_path: str) -> None:
    base, donor = GGUFReader(base_path), GGUFReader(donor_path)
    arch = base.fields["general.architecture"].contents()
    n_trunk = base.fields[f"{arch}.block_count"].contents()
    writer = GGUFWriter(out_path, arch)
    for name, field in base.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name == f"{arch}.block_count":
            value += 1
        if name == f"{arch}.attention.recurrent_layers":
            value = [*value, False]
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type)
    writer.add_key_value(f"{arch}.nextn_predict_layers", 1, GGUFValueType.UINT32)
    tensors = [*base.tensors, *(t for t in donor.tensors if t.name.startswith(f"blk.{n_trunk}."))]
    for t in tensors:
        writer.add_tensor_info(t.name, t.data.shape, t.data.dtype, t.data.nbytes, t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for t in tensors:
        writer.write_tensor_data(t.data)
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
