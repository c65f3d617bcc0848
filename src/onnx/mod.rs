//! ONNX Runtime: library, sessions, devices. The only module that uses `ort`.
