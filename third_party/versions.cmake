# The oldest version of each dependency that hone accepts; README.md beside this file has the
# versions it is tested with.
set(HONE_MIN_OPENBLAS 0.3.20)
set(HONE_MIN_JANSSON 2.13)
set(HONE_MIN_YAML 0.2.2)
set(HONE_MIN_PCRE2 10.39)
set(HONE_MIN_UTF8PROC 2.7)
set(HONE_MIN_OPENSSL 3.0)
set(HONE_MIN_ZLIB 1.2.11)
set(HONE_MIN_GTEST 1.11)
set(HONE_MIN_CUDA 12.4)
set(HONE_MIN_CUDNN 9.11)
set(HONE_MIN_NCCL 2.18)
