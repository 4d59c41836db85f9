#!/bin/sh
# Writes seed inputs for the fuzz targets: make_seeds.sh DIR gives DIR/safetensors, DIR/config,
# DIR/images, DIR/tasks, DIR/nifti, DIR/fed_message, DIR/trajectory and DIR/hostlist.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1/safetensors" "$1/config" "$1/images" "$1/tasks" "$1/nifti" "$1/fed_message" \
    "$1/trajectory" "$1/hostlist"
here=$(dirname "$0")

# safetensors NAME JSON DATA: length of the JSON in 8 bytes (below 256), JSON, data
safetensors() {
    {
        printf "\\$(printf %03o "${#2}")\\0\\0\\0\\0\\0\\0\\0"
        printf %s "$2"
        printf "$3"
    } > "$1"
}
st=$1/safetensors
safetensors "$st/empty" '{}' ''
safetensors "$st/f32" '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' '\0\0\200\077\0\0\0\100'
safetensors "$st/meta" '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}' '\200\077\0\100x'
safetensors "$st/wide" '{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},"q":{"dtype":"F4","shape":[2,0],"data_offsets":[16,16]}}' 'abcdefgh12345678'

config=$1/config
cat > "$config/peft" <<'END'
{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "bias": "none",
 "target_modules": ["q_proj", "v_proj"], "exclude_modules": ".*lm_head", "use_rslora": true,
 "layers_to_transform": [0, 1], "layers_pattern": ["layers"], "rank_pattern": {"q_proj": 4},
 "alpha_pattern": {"layers.0.v_proj": 2.5}, "modules_to_save": null, "use_dora": false,
 "init_lora_weights": true, "fan_in_fan_out": false, "task_type": "CAUSAL_LM"}
END
cat > "$config/peft_regex" <<'END'
{"peft_type": "LORA", "target_modules": ".*\\.(q|v)_proj$", "init_lora_weights": "gaussian"}
END
cat > "$config/model" <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
 "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8,
 "num_key_value_heads": 4, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": null,
 "tie_word_embeddings": true, "torch_dtype": "float32", "eos_token_id": [1, 2]}
END

printf 'gnode[10,20,25-27],a[001-003]b[1-2]-ib,login' > "$1/hostlist/hosts"
printf '4(x2),3' > "$1/hostlist/tasks"

# the first byte says what the rest is
for file in "$here"/../fixtures/images/*.jpg "$here"/../fixtures/images/*.png; do
    { printf '\0'; cat "$file"; } > "$1/images/$(basename "$file")"
done
printf '\003\0\0\010\003\0\0\0\002\0\0\0\001\0\0\0\003abcdef' > "$1/images/idx3"
printf '\003\0\0\010\001\0\0\0\002\001\002' > "$1/images/idx1"
printf '\003\0\0\013\001\0\0\0\002\0\001\001\0' > "$1/images/idx1_short"
{ printf '\004\003'; head -c 3072 /dev/zero; } > "$1/images/cifar10"
{ printf '\004\003\021'; head -c 3072 /dev/zero; } > "$1/images/cifar100"
printf '\007II*\0\010\0\0\0\001\0\022\001\003\0\001\0\0\0\006\0\0\0' > "$1/images/exif"
printf '\0000,1/2,bee' > "$1/tasks/list"
printf '\0020-2/0,x y' > "$1/tasks/repeats"
printf '\0410,1,2,5' > "$1/tasks/order"

# 2 x 2 x 2 voxels of uint8, 1 mm, and the same with a qform
zeros() { head -c "$1" /dev/zero; }
nifti() {
    printf '\134\001\0\0'; zeros 36
    printf '\003\0\002\0\002\0\002\0\001\0\001\0\001\0\001\0'; zeros 14
    printf '\002\0\010\0\0\0'
    for axis in 0 1 2 3 4 5 6 7; do printf '\0\0\200\077'; done
    printf '\0\0\260\103'; zeros 140
    printf "$1"; zeros 90
    printf 'n+1\0\0\0\0\0\001\002\003\004\005\006\007\010'
}
{ printf '\0'; nifti '\0\0'; } > "$1/nifti/plain"
{ printf '\0'; nifti '\001\0'; } > "$1/nifti/qform"
{ printf '\001'; nifti '\0\0' | gzip -nc; } > "$1/nifti/gzip"

# message NAME ENCODING FLAGS VALUES BYTES START: an update of 3 samples, its body zeros behind START;
# numbers in octal but BYTES. The target fills in layout, length and checksum.
message() {
    {
        printf "hone-fed\\1\\0\\0\\0\\2\\0\\0\\0\\$2\\0\\0\\0\\$3\\0\\0\\0"
        head -c 16 /dev/zero
        printf '\3\0\0\0\0\0\0\0'
        head -c 56 /dev/zero
        printf "\\$4"
        head -c 23 /dev/zero
        printf "$6"
        head -c "$5" /dev/zero
    } > "$fed/$1"
}
fed=$1/fed_message
message f32 0 0 60 208 ''
message f32_fisher 0 2 60 400 ''
message bf16 1 1 60 112 ''
message bf16_fisher 1 3 60 208 ''
message topk 2 1 2 32 '\1'

# sizes (records 1, knots 2, numbers 1, support 1), then a record; the target fills in the rest: facts
# of episode 1 in domain 0 with unit 1, one image, one knot of 1 and one of 2
{
    printf '\001\002\001\001'
    printf '\0\0\0\0\001\0\0\0'
    printf '\001\0\0\0\0\0\0\0'; zeros 8
    zeros 8; printf '\0\0\200\077'; zeros 8; printf '\001\0\0\0'
    printf '\005\0\0\0\0\0\0\0'; printf '\0\074\0\100'; zeros 4
} > "$1/trajectory/one"
