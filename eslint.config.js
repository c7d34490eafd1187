import importPlugin from 'eslint-plugin-import'
import neostandard, { plugins, resolveIgnoresFromGitignore } from 'neostandard'

const root = import.meta.dirname
const layers = ['types/**/*.ts', 'lib/**/*.ts', 'plugins/**/*.ts']

/** types/ <- lib/ <- plugins/: an arrow is an import, and none runs the other way. */
const zones = [
  { target: './types', from: ['./lib', './plugins'], message: 'types/ holds contracts only: it imports nothing from lib/ or plugins/.' },
  { target: './lib', from: './plugins', message: 'lib/ is the engine: it knows nothing of plugins/.' },
  ...['./types', './lib', './plugins'].map((target) => ({
    target,
    from: ['./test', './examples', './bench', './docs', './dist'],
    message: 'The package imports only types/, lib/ and plugins/.'
  }))
]

export default [
  { ignores: [...resolveIgnoresFromGitignore(), '.git/**'] },
  ...neostandard({ ts: true, noJsx: true }),
  {
    name: 'rockstar-proxy/typescript',
    files: ['**/*.ts'],
    plugins: { '@typescript-eslint': plugins['typescript-eslint'].plugin, import: importPlugin },
    settings: {
      'import/extensions': ['.ts'],
      'import/parsers': { '@typescript-eslint/parser': ['.ts'] },
      'import/resolver': { node: { extensions: ['.ts', '.js'] } }
    },
    rules: {
      'prefer-const': 'error',
      'no-var': 'error',
      eqeqeq: ['error', 'always'],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { prefer: 'type-imports', disallowTypeAnnotations: true }],
      '@typescript-eslint/no-unused-vars': ['error', {
        args: 'after-used',
        argsIgnorePattern: '^_',
        varsIgnorePattern: '^_',
        caughtErrors: 'all',
        ignoreRestSiblings: true
      }],
      'import/first': 'error',
      'import/no-duplicates': 'error',
      'import/no-self-import': 'error',
      'import/no-cycle': ['error', { ignoreExternal: true }],
      'import/no-restricted-paths': ['error', { basePath: root, zones }]
    }
  },
  {
    name: 'rockstar-proxy/layers',
    files: layers,
    rules: {
      'no-console': 'error',
      'import/no-extraneous-dependencies': ['error', {
        packageDir: root,
        devDependencies: false,
        optionalDependencies: false,
        peerDependencies: true,
        includeTypes: true
      }]
    }
  },
  {
    name: 'rockstar-proxy/tests',
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-explicit-any': 'off'
    }
  }
]
